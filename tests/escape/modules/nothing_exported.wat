;; attack: is an empty module
;; expect: rejected
;; says: function
(module)
