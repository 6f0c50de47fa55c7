;; attack: a function with fifty thousand locals
;; expect: rejected
;; says: locals_per_function
(module (func (local «50000 × i32 »)))
