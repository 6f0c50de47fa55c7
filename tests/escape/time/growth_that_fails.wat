;; attack: asks for memory that it cannot have, for ever
;; expect: out-of-fuel
;; limits: fuel=50000000
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (loop (drop (memory.grow (i32.const 60000))) (br 0))
    unreachable))
