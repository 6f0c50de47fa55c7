//! attack: names a file of the user as one of its modules
//! expect: compile-error
//! says: ermission denied

#[path = "«secret»"]
pub mod stolen;
pub const S: &str = stolen::STOLEN;
