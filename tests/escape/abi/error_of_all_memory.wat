;; attack: returns all of its memory as an error
;; expect: guest-error
(module
  (memory (export "memory") 512)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.store (i32.const 64) (i32.const 1))
    (i32.store (i32.const 68) (i32.const 0x10000))
    (i32.store (i32.const 72) (i32.const 0x1000000))
    (i32.const 64)))
