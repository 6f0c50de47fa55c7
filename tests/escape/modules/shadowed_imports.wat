;; attack: imports one function of the host twice, under two indices
;; expect: finished
;; says: hello
(module
  (import "terrarium:guest/report@0.1.0" "log" (func $log (param i32 i32)))
  (import "terrarium:guest/report@0.1.0" "log" (func $again (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "hello again")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (call $log (i32.const 16) (i32.const 5))
    (call $again (i32.const 21) (i32.const 6))
    (i32.const 0)))
