// attack: includes itself for ever
// expect: compile-error
include!("candidate.rs");
