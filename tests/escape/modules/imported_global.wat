;; attack: imports a global that others could change
;; expect: rejected
;; says: only functions
(module (import "env" "__stack_pointer" (global (mut i32))))
