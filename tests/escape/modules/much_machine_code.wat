;; attack: becomes as much machine code as two megabytes can
;; expect: finished
(module
  (memory (export "memory") 1)
  «16 × (func (param f64) (result f64)
    local.get 0
    «18000 × i64.trunc_sat_f64_u f64.convert_i64_u »)
  »(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32) (i32.const 0)))
