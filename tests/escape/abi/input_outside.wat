;; attack: says that there is room for its input outside of memory
;; expect: trap
;; input: abc
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const -2))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
