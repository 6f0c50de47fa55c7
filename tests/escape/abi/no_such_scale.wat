;; attack: passes a case that an enumeration does not have
;; expect: trap
(module
  (import "terrarium:guest/knobs@0.1.0" "number" (func $number (param i32 i32 f64 f64 f64 i32) (result f64)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (drop (call $number (i32.const 0) (i32.const 1) (f64.const 1) (f64.const 0) (f64.const 2) (i32.const 99)))
    (i32.const 0)))
