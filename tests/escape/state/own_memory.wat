;; attack: leaves a mark in its memory
;; expect: finished
;; times: 6
;; output: 0
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.store8 (i32.const 80) (i32.add (i32.load8_u (i32.const 5000)) (i32.const 0x30)))
    (i32.store8 (i32.const 5000) (i32.const 7))
    (i32.store (i32.const 68) (i32.const 80))
    (i32.store (i32.const 72) (i32.const 1))
    (i32.const 64)))
