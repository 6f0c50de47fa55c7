;; attack: imports a function of WASI
;; expect: rejected
;; says: wasi_snapshot_preview1
(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))))
