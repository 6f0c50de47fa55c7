;; attack: hands the host a megabyte in each call
;; expect: deadline
;; limits: fuel=1152921504606846976 host_calls=1000000000 wall_ms=700
(module
  (import "terrarium:guest/report@0.1.0" "log" (func $log (param i32 i32)))
  (memory (export "memory") 32)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (loop (call $log (i32.const 0) (i32.const 0x100000)) (br 0))
    unreachable))
