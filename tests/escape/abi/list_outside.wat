;; attack: returns a list that begins outside of memory
;; expect: trap
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\00\00\00\00\f0\ff\ff\ff\10\00\00\00")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 64)))
