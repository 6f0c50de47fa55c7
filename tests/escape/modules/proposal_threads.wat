;; attack: uses shared memory
;; expect: rejected
(module (memory 1 1 shared))
