;; attack: fills with a size that is negative as a signed number
;; expect: out-of-fuel
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (memory.fill (i32.const 0) (i32.const 7) (i32.const -1))
    (i32.const 0)))
