;; attack: finds its table as large as it left it
;; expect: finished
;; times: 6
;; output: 2
(module
  (memory (export "memory") 1)
  (table 2 funcref)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.store8 (i32.const 80) (i32.add (table.size) (i32.const 0x30)))
    (drop (table.grow (ref.null func) (i32.const 5)))
    (i32.store (i32.const 68) (i32.const 80))
    (i32.store (i32.const 72) (i32.const 1))
    (i32.const 64)))
