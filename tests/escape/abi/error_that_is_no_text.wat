;; attack: returns an error that is not UTF-8
;; expect: trap
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\01\00\00\00\50\00\00\00\04\00\00\00")
  (data (i32.const 80) "\ff\fe\c0\80")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 64)))
