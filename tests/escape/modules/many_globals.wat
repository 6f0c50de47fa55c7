;; attack: a thousand globals
;; expect: rejected
;; says: globals
(module
  «1000 × (global i32 (i32.const 0))
  »)
