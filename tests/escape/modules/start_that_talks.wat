;; attack: calls the host for ever when it is instantiated
;; expect: trap
;; says: instantiate
(module
  (import "terrarium:guest/report@0.1.0" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (func $talk (loop (call $log (i32.const 0) (i32.const 100)) (br 0)))
  (start $talk)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
