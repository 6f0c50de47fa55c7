;; attack: traps when it is asked for room
;; expect: trap
;; input: abc
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    unreachable)
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
