;; attack: uses waiting and waking
;; expect: rejected
(module (memory 1) (func (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1)))))
