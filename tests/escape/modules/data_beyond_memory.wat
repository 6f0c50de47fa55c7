;; attack: writes its data beyond its memory
;; expect: trap
;; says: instantiate
(module
  (memory (export "memory") 1)
  (data (i32.const 65530) "0123456789")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
