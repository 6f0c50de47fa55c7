;; attack: uses references to objects of the host
;; expect: rejected
(module (func (param externref)))
