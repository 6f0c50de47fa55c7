;; attack: is a component, with a world of its own
;; expect: rejected
;; says: a core module is expected
(component (core module))
