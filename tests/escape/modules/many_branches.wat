;; attack: a little of the same in many functions
;; expect: rejected
;; says: br_table_targets is
(module
  «40 × (func (param i32) (block (br_table «1000 × 0 » (local.get 0))))
  »)
