;; attack: traps when it is instantiated
;; expect: trap
;; says: instantiate
(module
  (memory (export "memory") 1)
  (func $no unreachable)
  (start $no)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
