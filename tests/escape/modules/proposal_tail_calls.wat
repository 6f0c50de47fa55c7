;; attack: uses tail calls, which recurse without a stack
;; expect: rejected
(module (func $f (return_call $f)))
