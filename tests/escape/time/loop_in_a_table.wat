;; attack: runs in a circle through the last case of a br_table
;; expect: out-of-fuel
;; limits: fuel=50000000
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (loop (br_table 0 0 0 (local.get 0)))
    unreachable))
