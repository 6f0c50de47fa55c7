;; attack: reads before and behind its memory
;; expect: trap
;; says: out of bounds
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.load offset=0xffffffff (i32.const -1))))
