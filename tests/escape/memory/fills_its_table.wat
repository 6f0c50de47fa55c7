;; attack: fills its table for ever
;; expect: out-of-fuel
;; limits: fuel=50000000
(module
  (memory (export "memory") 1)
  (table 20000 funcref)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (loop (table.fill (i32.const 0) (ref.null func) (i32.const 20000)) (br 0))
    unreachable))
