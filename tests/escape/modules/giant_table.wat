;; attack: a table of five million elements
;; expect: rejected
;; says: table_elements
(module (table 5000000 funcref))
