//! attack: reads a file of the user who runs the engine
//! expect: compile-error
//! says: os error

include!("«secret»");
pub const S: &str = STOLEN;
