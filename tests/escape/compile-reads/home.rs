//! attack: reads the engine's environment at compile time
//! expect: compile-error
//! says: not defined

pub const S: &str = env!("HOME");
pub const T: &str = env!("TERRARIUM_ESCAPE_KEY");
