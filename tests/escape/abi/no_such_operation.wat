;; attack: submits an operation that does not exist
;; expect: trap
;; world: trainer
(module
  (import "terrarium:guest/compute@0.1.0" "submit" (func $submit (param i32 i32 i32)))
  (memory (export "memory") 2)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x8000))
  (func (export "train") (result i32) (i32.const 0))
  (func (export "forward") (param i64 i64) (result i32) (i32.const 0))
  (func (export "init") (param i64) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 200))
    (call $submit (i32.const 1024) (i32.const 1) (i32.const 64))
    (i32.const 0)))
