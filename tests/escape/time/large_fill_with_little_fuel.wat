;; attack: fills more than its fuel pays for, at once
;; expect: out-of-fuel
;; limits: fuel=100000
(module
  (memory (export "memory") 256)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (memory.fill (i32.const 0) (i32.const 7) (i32.const 0x1000000))
    (i32.const 0)))
