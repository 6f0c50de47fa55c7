;; attack: imports a function of an interface that does not exist
;; expect: rejected
;; says: 0.2.0
(module (import "terrarium:guest/report@0.2.0" "log" (func (param i32 i32))))
