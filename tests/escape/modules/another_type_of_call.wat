;; attack: exports `call` with another signature
;; expect: rejected
(module (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
  (func (export "call") (param i64) (result f64) (f64.const nan)))
