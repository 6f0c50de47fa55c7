;; attack: exports names as other conventions have them
;; expect: rejected
(module
  (memory (export "memory") 1)
  (func (export "cm32p2||call") (param i32 i32) (result i32) unreachable)
  (func (export "cm32p2_initialize") unreachable)
  (func (export "_start") unreachable)
  (func (export "cabi_import_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
