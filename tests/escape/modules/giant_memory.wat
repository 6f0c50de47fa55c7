;; attack: a memory of almost four gigabytes
;; expect: rejected
;; says: memory_pages
(module (memory 60000))
