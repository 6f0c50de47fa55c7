;; attack: uses wide arithmetic
;; expect: rejected
(module (func (param i64) (result i64 i64) (i64.mul_wide_s (local.get 0) (local.get 0))))
