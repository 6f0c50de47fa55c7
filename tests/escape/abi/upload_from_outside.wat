;; attack: uploads from outside of its memory
;; expect: trap
;; world: trainer
(module
  (import "terrarium:guest/compute@0.1.0" "upload-floats" (func $upload (param i64 i64 i32 i32 i32)))
  (memory (export "memory") 2)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x8000))
  (func (export "train") (result i32) (i32.const 0))
  (func (export "forward") (param i64 i64) (result i32) (i32.const 0))
  (func (export "init") (param i64) (result i32)
    (call $upload (i64.const 0) (i64.const 0) (i32.const 4) (i32.const 0x3fffffff) (i32.const 64))
    (i32.const 0)))
