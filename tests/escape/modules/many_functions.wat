;; attack: a hundred thousand empty functions
;; expect: rejected
;; says: functions
(module
  «100000 × (func)
  »)
