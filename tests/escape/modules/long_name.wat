;; attack: an export with a name of ten kilobytes
;; expect: rejected
;; says: name_bytes
(module (func (export "«10000 × x»")))
