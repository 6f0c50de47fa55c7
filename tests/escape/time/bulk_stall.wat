;; attack: copies its whole memory again and again with endless fuel
;; expect: deadline
;; limits: fuel=1152921504606846976 wall_ms=500
(module
  (memory (export "memory") 512)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (loop (memory.copy (i32.const 0) (i32.const 65536) (i32.const 0x1fe0000)) (br 0))
    unreachable))
