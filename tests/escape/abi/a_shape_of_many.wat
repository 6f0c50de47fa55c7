;; attack: a shape of a hundred million dimensions
;; expect: trap
;; world: trainer
(module
  (import "terrarium:guest/compute@0.1.0" "alloc" (func $alloc (param i32 i32 i32 i32)))
  (memory (export "memory") 2)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x8000))
  (func (export "train") (result i32) (i32.const 0))
  (func (export "forward") (param i64 i64) (result i32) (i32.const 0))
  (func (export "init") (param i64) (result i32)
    (call $alloc (i32.const 0) (i32.const 0) (i32.const 100000000) (i32.const 64))
    (i32.const 0)))
