;; attack: imports a function of the host with another signature
;; expect: rejected
;; says: another type
(module (import "terrarium:guest/report@0.1.0" "log" (func (param i64 i64) (result i32))))
