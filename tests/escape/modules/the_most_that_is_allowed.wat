;; attack: is just below the limits on branches, blocks and locals, to cost as much as it can
;; expect: finished
(module
  (memory (export "memory") 1)
  «8 × (func (param i32) (local «900 × i64 »)
    «60 × (block »«60 × (block (br_table «60 × # » (local.get 0)))»«60 × )»)
  »(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32) (i32.const 0)))
