;; attack: says that there is room for its input across the end of memory
;; expect: trap
;; input: a longer input
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 65534))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
