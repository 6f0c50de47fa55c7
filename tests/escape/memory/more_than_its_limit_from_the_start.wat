;; attack: declares a memory that begins above its limit
;; expect: memory-limit
;; limits: memory_bytes=8388608
(module
  (memory (export "memory") 200)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
