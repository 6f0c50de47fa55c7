;; attack: drops its data, which must be there again
;; expect: finished
;; times: 6
;; output: p
(module
  (memory (export "memory") 1)
  (data $d "passive")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (memory.init $d (i32.const 80) (i32.const 0) (i32.const 1))
    (data.drop $d)
    (i32.store (i32.const 68) (i32.const 80))
    (i32.store (i32.const 72) (i32.const 1))
    (i32.const 64)))
