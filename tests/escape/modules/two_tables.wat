;; attack: two tables
;; expect: rejected
;; says: tables
(module (table 1 funcref) (table 1 funcref))
