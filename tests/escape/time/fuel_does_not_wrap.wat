;; attack: asks for so much at once that a counter would wrap
;; expect: trap
;; limits: fuel=1152921504606846976 wall_ms=20000
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (loop (memory.fill (i32.const 0) (i32.const 7) (i32.const -1)) (br 0))
    unreachable))
