;; attack: has each of its bytes changed
;; expect: rejected | trap | finished | out-of-fuel
;; every: flip
;; limits: fuel=1000000
(module (memory (export "memory") 1)
  (global (mut i32) (i32.const 7))
  (table 2 funcref) (elem (i32.const 0) 0)
  (data (i32.const 0) "\00")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (block (loop (br_table 0 1 (local.get 0))))
    (i32.const 0)))
