;; attack: an allowed import a thousand times
;; expect: rejected
;; says: imports
(module
  «1000 × (import "terrarium:guest/report@0.1.0" "log" (func (param i32 i32)))
  »)
