;; attack: runs for ever in the function that makes room for its input
;; expect: out-of-fuel
;; limits: fuel=50000000
;; input: abc
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (loop (br 0))
    unreachable)
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
