;; attack: calls the host for ever
;; expect: quota
;; limits: host_calls=50000
;; says: host_calls
(module
  (import "terrarium:guest/report@0.1.0" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (loop (call $log (i32.const 0) (i32.const 0)) (br 0))
    unreachable))
