//! attack: five thousand exports for the linker and the gate
//! expect: rejected
//! says: at most

macro_rules! exports {
    ($($n:literal)*) => { $(#[unsafe(export_name = $n)] pub extern "C" fn f() -> u32 { 1 })* };
}
«5000 × const _: () = { exports!("f#"); };
»
