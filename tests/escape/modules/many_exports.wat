;; attack: three hundred exports
;; expect: rejected
;; says: exports
(module (func $f)
  «300 × (export "e#" (func $f))
  »)
