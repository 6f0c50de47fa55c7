;; attack: has almost as many functions as it may
;; expect: finished
(module
  (memory (export "memory") 1)
  «9000 × (func (result i32) (i32.const #))
  »(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32) (i32.const 0)))
