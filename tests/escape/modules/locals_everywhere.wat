;; attack: nine hundred locals in each of five hundred functions
;; expect: rejected
;; says: locals is
(module
  «500 × (func (local «900 × f64 »))
  »)
