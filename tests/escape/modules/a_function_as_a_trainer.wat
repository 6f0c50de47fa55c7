;; attack: is a function where a trainer is asked for
;; expect: rejected
;; world: trainer
;; says: trainer
(module (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
  (func (export "call") (param i32 i32) (result i32) (i32.const 0)))
