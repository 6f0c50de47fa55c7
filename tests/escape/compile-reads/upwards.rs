//! attack: leaves its folder upwards
//! expect: compile-error
//! says: os error

pub const S: &str = include_str!("../../plan.json");
pub const T: &str = include_str!("../../../../../../etc/passwd");
