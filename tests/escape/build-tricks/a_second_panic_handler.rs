//! attack: replaces what happens at a panic
//! expect: compile-error

use terrarium_sdk as _;
#[panic_handler]
fn p(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
