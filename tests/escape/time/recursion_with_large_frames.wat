;; attack: calls itself with a thousand vectors in each frame
;; expect: stack-overflow
(module
  (memory (export "memory") 1)
  (func $f (param i32) (result i32) (local «900 × v128 »)
    «900 × (local.set 1 (i8x16.splat (local.get 0)))
    »(drop (call $f (local.get 0)))
    «899 × (local.set 1 (v128.xor (local.get 1) (local.get 2)))
    »(i8x16.extract_lane_u 0 (local.get 1)))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (call $f (i32.const 0))))
