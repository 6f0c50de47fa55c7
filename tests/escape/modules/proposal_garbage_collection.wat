;; attack: uses objects of the host's heap
;; expect: rejected
(module (type $t (array (mut i8))) (func (drop (array.new_default $t (i32.const 2000000000)))))
