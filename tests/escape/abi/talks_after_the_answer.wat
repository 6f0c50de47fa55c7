;; attack: calls the host in the function that frees its answer
;; expect: trap
;; says: cannot leave component instance
(module
  (import "terrarium:guest/report@0.1.0" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "\00\00\00\00\50\00\00\00\03\00\00\00")
  (data (i32.const 80) "abc")
  (func (export "cabi_post_call") (param i32) (call $log (i32.const 80) (i32.const 3)))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 64)))
