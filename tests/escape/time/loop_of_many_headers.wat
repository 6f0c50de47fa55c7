;; attack: runs in a circle through a hundred loops
;; expect: out-of-fuel
;; limits: fuel=50000000
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    «100 × (loop »(br 99)«100 × )»
    unreachable))
