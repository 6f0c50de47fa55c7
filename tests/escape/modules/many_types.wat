;; attack: a hundred thousand types
;; expect: rejected
;; says: types
(module
  «100000 × (type (func))
  »)
