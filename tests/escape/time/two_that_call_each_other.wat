;; attack: two functions call each other for ever
;; expect: stack-overflow
(module
  (memory (export "memory") 1)
  (func $a (param i32) (result i32) (i32.add (call $b (local.get 0)) (i32.const 1)))
  (func $b (param i32) (result i32) (i32.add (call $a (local.get 0)) (i32.const 1)))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (call $a (i32.const 0))))
