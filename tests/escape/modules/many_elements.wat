;; attack: an element segment of thirty thousand functions
;; expect: rejected
;; says: segment_elements
(module (func $f) (elem func «30000 × $f »))
