;; attack: changes its constants
;; expect: finished
;; times: 6
;; output: d
(module
  (memory (export "memory") 1)
  (data (i32.const 200) "data")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.store8 (i32.const 80) (i32.load8_u (i32.const 200)))
    (i32.store8 (i32.const 200) (i32.const 0x58))
    (i32.store (i32.const 68) (i32.const 80))
    (i32.store (i32.const 72) (i32.const 1))
    (i32.const 64)))
