;; attack: says that its answer has a gigabyte
;; expect: trap
(module (memory (export "memory") 1)
  (data (i32.const 64) "\00\00\00\00\00\00\00\00\00\00\00\40")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32) (i32.const 64)))
