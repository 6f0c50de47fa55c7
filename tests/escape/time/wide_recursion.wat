;; attack: calls itself twice, to a depth that only fuel ends
;; expect: out-of-fuel
;; limits: fuel=50000000
(module
  (memory (export "memory") 1)
  (func $f (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add
        (call $f (i32.sub (local.get 0) (i32.const 1)))
        (call $f (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 1))))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    (call $f (i32.const 60))))
