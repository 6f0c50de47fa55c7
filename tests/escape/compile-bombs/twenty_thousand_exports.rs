//! attack: twenty thousand functions for the linker
//! expect: rejected
//! says: at most

macro_rules! exports {
    ($($n:literal)*) => { $(#[unsafe(export_name = $n)] pub extern "C" fn f() -> u32 { 1 })* };
}
«8000 × const _: () = { exports!("f#"); };
»
