;; attack: imports a name with escape sequences, for the error
;; expect: rejected
;; says: unknown import
(module (import "\1b]0;owned\07" "\e2\80\ae\1b[2J" (func)))
