;; attack: a function imports the device
;; expect: rejected
;; says: submit
(module (import "terrarium:guest/compute@0.1.0" "submit" (func (param i32 i32 i32))))
