;; attack: two thousand data segments
;; expect: rejected
;; says: data_segments
(module (memory 1)
  «2000 × (data "")
  »)
