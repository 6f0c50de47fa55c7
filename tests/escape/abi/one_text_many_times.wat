;; attack: hands over one text of a megabyte four thousand times, which are four gigabytes
;; expect: trap
(module
  (import "terrarium:guest/knobs@0.1.0" "choice" (func $choice (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 32)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (local $p i32)
    (local.set $p (i32.const 0x100000))
    (loop
      (i32.store offset=4 (local.get $p) (i32.const 0x100000))
      (local.set $p (i32.add (local.get $p) (i32.const 8)))
      (br_if 0 (i32.lt_u (local.get $p) (i32.const 0x108000))))
    (drop (call $choice (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0x100000) (i32.const 4096)))
    (i32.const 0)))
