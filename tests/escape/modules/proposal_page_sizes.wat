;; attack: uses pages of one byte
;; expect: rejected
(module (memory 1 (pagesize 1)))
