;; attack: writes sixteen bytes across the end of its memory
;; expect: trap
;; says: out of bounds
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (v128.store offset=65530 (i32.const 0) (v128.const i64x2 -1 -1))
    (i32.const 0)))
