;; attack: asks for sixteen gigabytes of a tensor that does not exist, and may
;; expect: not-finite
;; world: trainer
;; limits: transfer_bytes=70000000000000
;; never: signal
(module
  (import "terrarium:guest/compute@0.1.0" "download-floats" (func $download (param i64 i64 i32 i32)))
  (memory (export "memory") 2)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x8000))
  (func (export "train") (result i32) (i32.const 0))
  (func (export "forward") (param i64 i64) (result i32) (i32.const 0))
  (func (export "init") (param i64) (result i32)
    (call $download (i64.const 0) (i64.const 0) (i32.const -1) (i32.const 64))
    (i32.const 0)))
