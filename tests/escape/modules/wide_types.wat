;; attack: a thousand types of nine hundred and ninety parameters
;; expect: rejected
;; says: params
(module
  «1000 × (type (func (param «990 × i64 »)))
  »)
