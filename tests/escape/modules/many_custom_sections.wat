;; attack: a hundred custom sections
;; expect: rejected
;; says: custom_sections
(module
  «100 × (@custom "a" "")
  »)
