;; attack: says in sections of its own that it has another world
;; expect: finished
(module
  (memory (export "memory") 1)
  (@custom "component-type" "\00asm\0d\00\01\00")
  (@custom "component-type:function" (after last) "wit-component-encoding")
  (@custom "target_features" "\ff\ff\ff\ff")
  (@custom "dylink.0" "\01\04\ff\ff\ff\ff")
  (@custom "name" "\00\ff\ff\ff\ff\0f")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (i32.const 0)))
