;; attack: imports the memory of somebody else
;; expect: rejected
;; says: only functions
(module (import "env" "memory" (memory 1)))
