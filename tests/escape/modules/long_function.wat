;; attack: a function of two hundred thousand instructions
;; expect: rejected
;; says: function_body_bytes
(module (func «200000 × nop »))
