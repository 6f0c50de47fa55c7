;; attack: copies from data that it dropped
;; expect: trap
;; says: out of bounds
(module
  (memory (export "memory") 1)
  (data $d "glass")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (data.drop $d)
    (memory.init $d (i32.const 0) (i32.const 0) (i32.const 5))
    (i32.const 0)))
