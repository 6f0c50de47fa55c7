;; attack: imports what the component model defines by itself
;; expect: rejected
;; says: resource
(module (import "terrarium:guest/report@0.1.0" "[resource-drop]x" (func (param i32))))
