;; attack: has names with escape sequences, for the backtrace
;; expect: trap
;; never: [31m
;; never: alert
(module
  (memory (export "memory") 1)
  (func $"\1b[31m<script>alert(1)</script>" (export "\1b[31m"))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 1024))
  (func (export "call") (param i32 i32) (result i32)
    unreachable))
