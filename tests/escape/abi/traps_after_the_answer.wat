;; attack: traps in the function that frees its answer
;; expect: trap
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\00\00\00\00\50\00\00\00\03\00\00\00")
  (data (i32.const 80) "abc")
  (func (export "cabi_post_call") (param i32) unreachable)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 64)))
