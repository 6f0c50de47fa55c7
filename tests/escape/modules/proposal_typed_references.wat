;; attack: uses typed references to functions
;; expect: rejected
(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))
