;; attack: fills its memory again and again when it is instantiated
;; expect: out-of-fuel
;; says: instantiate
(module
  (memory (export "memory") 16)
  (func $fill (loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x100000)) (br 0)))
  (start $fill)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
