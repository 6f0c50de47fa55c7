;; attack: calls its own export when it is asked for room
;; expect: stack-overflow
;; input: abc
(module
  (memory (export "memory") 1)
  (func $room (param i32 i32 i32 i32) (result i32) (drop (call $again (i32.const 0) (i32.const 0))) (i32.const 1024))
  (func $again (param i32 i32) (result i32) (drop (call $room (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1))) (i32.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (call $room (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1)))
  (func (export "call") (param i32 i32) (result i32)
    (drop (call $room (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1)))
    (i32.const 0)))
