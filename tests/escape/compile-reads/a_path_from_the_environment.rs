//! attack: builds the path of a file from the environment
//! expect: compile-error

include!(concat!(env!("CARGO_HOME"), "/credentials.toml"));
