;; attack: uses exceptions
;; expect: rejected
(module (tag $t) (func (throw $t)))
