//! attack: four thousand errors with long texts
//! expect: compile-error

«4000 × const A#: u32 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
»
