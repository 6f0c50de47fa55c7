;; attack: has data at both ends of a large memory, so that its image is large
;; expect: finished
;; times: 5
(module
  (memory (export "memory") 512)
  (data (i32.const 40) "x")
  (data (i32.const 0x1fffff0) "y")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 16)))
