;; attack: three thousand blocks in one another
;; expect: rejected
;; says: nesting
(module (func «3000 × block »«3000 × end »))
