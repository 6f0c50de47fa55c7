;; attack: runs in a circle many times, while others work
;; expect: out-of-fuel
;; times: 15
;; limits: fuel=30000000
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (loop (br 0))
    unreachable))
