;; attack: logs a text whose end wraps around
;; expect: trap
(module
  (import "terrarium:guest/report@0.1.0" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (call $log (i32.const 0xfffffffe) (i32.const 4))
    (i32.const 0)))
