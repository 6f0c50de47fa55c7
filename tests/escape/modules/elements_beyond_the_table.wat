;; attack: writes its elements beyond its table
;; expect: trap
;; says: instantiate
(module
  (memory (export "memory") 1)
  (table 1 funcref)
  (func $f)
  (elem (i32.const 1) $f)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
