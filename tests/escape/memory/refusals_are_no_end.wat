;; attack: is refused memory and goes on without it
;; expect: finished
;; limits: memory_bytes=8388608
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (drop (memory.grow (i32.const 60000)))
    (i32.const 0)))
