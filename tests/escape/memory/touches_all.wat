;; attack: grows to the limit and touches every page
;; expect: finished
;; limits: memory_bytes=8388608
;; times: 20
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (local $p i32)
    (drop (memory.grow (i32.const 127)))
    (loop
      (i32.store8 (local.get $p) (i32.const 1))
      (local.set $p (i32.add (local.get $p) (i32.const 4096)))
      (br_if 0 (i32.lt_u (local.get $p) (i32.const 0x800000))))
    (i32.const 16)))
