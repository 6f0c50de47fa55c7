;; attack: grows by minus one page, which is four billion
;; expect: out-of-fuel
;; limits: memory_bytes=8388608
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (drop (memory.grow (i32.const -1)))
    unreachable))
