//! attack: has nothing of the world that is asked for
//! expect: rejected
//! says: function

#![no_std]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
