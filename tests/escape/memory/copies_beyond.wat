;; attack: copies from inside to outside of its memory
;; expect: trap
;; says: out of bounds
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (memory.copy (i32.const 65000) (i32.const 0) (i32.const 1000))
    (i32.const 0)))
