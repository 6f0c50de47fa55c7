;; attack: is cut at every length
;; expect: rejected
;; every: prefix
(module (memory (export "memory") 1)
  (global (mut i32) (i32.const 7))
  (table 2 funcref) (elem (i32.const 0) 0)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (block (loop (br_table 0 1 (local.get 0))))
    (i32.const 0)))
