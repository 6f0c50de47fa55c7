;; attack: hands over a list of two hundred million options
;; expect: trap
(module
  (import "terrarium:guest/knobs@0.1.0" "choice" (func $choice (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (drop (call $choice (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0x0bebc200)))
    (i32.const 0)))
