;; attack: returns a case that the type does not have
;; expect: trap
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\07\00\00\00\00\00\00\00\00\00\00\00")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 64)))
