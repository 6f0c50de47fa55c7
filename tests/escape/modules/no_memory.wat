;; attack: has no memory for its input
;; expect: rejected
(module
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
  (func (export "call") (param i32 i32) (result i32) (i32.const 0)))
