;; attack: two memories
;; expect: rejected
;; says: memories
(module (memory 1) (memory 1))
