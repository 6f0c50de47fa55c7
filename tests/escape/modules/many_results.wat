;; attack: a function of a hundred results
;; expect: rejected
;; says: results
(module (type (func (result «100 × i64 »))))
