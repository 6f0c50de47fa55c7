;; attack: asks for a table of four billion elements
;; expect: out-of-fuel
(module
  (memory (export "memory") 1)
  (table 1 funcref)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (drop (table.grow (ref.null func) (i32.const -1)))
    unreachable))
