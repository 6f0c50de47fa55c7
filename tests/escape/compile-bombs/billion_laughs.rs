//! attack: ten macros, each ten times the one before
//! expect: deadline | compile-error

macro_rules! a { () => { 1u64 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 }; }
macro_rules! b { () => { a!() + a!() + a!() + a!() + a!() + a!() + a!() + a!() + a!() + a!() }; }
macro_rules! c { () => { b!() + b!() + b!() + b!() + b!() + b!() + b!() + b!() + b!() + b!() }; }
macro_rules! d { () => { c!() + c!() + c!() + c!() + c!() + c!() + c!() + c!() + c!() + c!() }; }
macro_rules! e { () => { d!() + d!() + d!() + d!() + d!() + d!() + d!() + d!() + d!() + d!() }; }
macro_rules! f { () => { e!() + e!() + e!() + e!() + e!() + e!() + e!() + e!() + e!() + e!() }; }
macro_rules! g { () => { f!() + f!() + f!() + f!() + f!() + f!() + f!() + f!() + f!() + f!() }; }
pub fn laugh() -> u64 {
    g!()
}
