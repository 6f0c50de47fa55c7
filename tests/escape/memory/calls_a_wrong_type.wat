;; attack: calls through a table with a wrong type
;; expect: trap
;; says: indirect call
(module
  (memory (export "memory") 1)
  (type $t (func (result i64)))
  (table 4 funcref)
  (elem (i32.const 0) $f)
  (func $f (result i32) (i32.const 1))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (drop (call_indirect (type $t) (i32.const 0)))
    (i32.const 0)))
