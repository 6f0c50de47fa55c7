//! attack: thirty thousand blocks in one another
//! expect: compile-error

pub fn f() {
    «30000 × {»«30000 × }»
}
