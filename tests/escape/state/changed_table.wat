;; attack: changes its table
;; expect: finished
;; times: 6
;; output: A
(module
  (memory (export "memory") 1)
  (table 2 funcref)
  (elem (i32.const 0) $a $b)
  (func $a (result i32) (i32.const 65))
  (func $b (result i32) (i32.const 66))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.store8 (i32.const 80) (call_indirect (result i32) (i32.const 0)))
    (table.set (i32.const 0) (ref.func $b))
    (i32.store (i32.const 68) (i32.const 80))
    (i32.store (i32.const 72) (i32.const 1))
    (i32.const 64)))
