;; attack: carries a megabyte that nobody reads
;; expect: finished
(module
  (memory (export "memory") 1)
  (@custom "notes" "«1000000 × x»")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
