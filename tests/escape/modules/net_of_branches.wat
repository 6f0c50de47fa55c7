;; attack: a net of br_table, which costs a compiler minutes
;; expect: rejected
;; says: br_table_targets_per_function
(module (func (param i32)
  «300 × (block »
  «100 × (block (br_table 0 «300 × 7 » (local.get 0)))»
  «300 × )»))
