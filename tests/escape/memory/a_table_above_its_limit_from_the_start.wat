;; attack: declares a table that begins above its limit
;; expect: table-limit
;; limits: table_elements=100
(module
  (memory (export "memory") 1)
  (table 101 funcref)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
