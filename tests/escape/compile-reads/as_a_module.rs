//! attack: names a file of the user as one of its modules
//! expect: compile-error
//! says: os error

#[path = "«secret»"]
pub mod stolen;
pub const S: &str = stolen::STOLEN;
