;; attack: blocks that carry ten thousand values
;; expect: rejected
;; says: block_values_per_function
(module (func «2500 × (block (result i32 i32 i32 i32) unreachable) drop drop drop drop »))
