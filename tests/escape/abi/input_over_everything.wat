;; attack: gives the same room to everything
;; expect: finished
;; input: abc
;; output: abc
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\00\00\00\00\60\00\00\00\03\00\00\00")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 96))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 64)))
