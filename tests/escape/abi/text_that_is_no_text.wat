;; attack: logs bytes that are not UTF-8
;; expect: trap
(module
  (import "terrarium:guest/report@0.1.0" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\ed\a0\80\ff")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (call $log (i32.const 16) (i32.const 4))
    (i32.const 0)))
