;; attack: counts its calls in a global
;; expect: finished
;; times: 6
;; output: 1
(module
  (memory (export "memory") 1)
  (global $g (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (global.set $g (i32.add (global.get $g) (i32.const 1)))
    (i32.store8 (i32.const 80) (i32.add (global.get $g) (i32.const 0x30)))
    (i32.store (i32.const 68) (i32.const 80))
    (i32.store (i32.const 72) (i32.const 1))
    (i32.const 64)))
