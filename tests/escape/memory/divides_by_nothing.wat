;; attack: divides the smallest number by minus one
;; expect: trap
;; says: overflow
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.div_s (i32.const 0x80000000) (i32.const -1))))
