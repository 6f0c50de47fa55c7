;; attack: calls through an empty place of a table, or none
;; expect: trap
(module
  (memory (export "memory") 1)
  (table 4 funcref)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (drop (call_indirect (result i32) (i32.const 70000)))
    (i32.const 0)))
