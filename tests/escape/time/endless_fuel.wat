;; attack: runs in a circle with endless fuel
;; expect: deadline
;; limits: fuel=1152921504606846976 wall_ms=500
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (loop (br 0))
    unreachable))
