;; attack: data of three megabytes
;; expect: rejected
;; says: bytes
(module (memory 1) (data "«3000000 × x»"))
