;; attack: has a function with as many values alive as fit, for the register allocator
;; expect: finished
(module
  (memory (export "memory") 1)
  (func (param i64) (result i64)
    «2000 × (i64.mul (local.get 0) (i64.const #))
    »«1999 × i64.xor »)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32) (i32.const 0)))
