//! Intel's AMX: eight registers of sixteen rows of 64 bytes, which a system lends to
//! processes that ask. Its tiles of bfloat16 multiply sixteen times as fast as vectors
//! multiply `f32`. (Intel, *Software Developer's Manual*, volume 1, chapter 18.)
//!
//! Its instructions are written as assembly: the compiler uses none of its registers,
//! so what they hold stays from one to the next.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};

/// Rows of a register.
pub(crate) const ROWS: usize = 16;

/// Bits of `cpuid(7, 0).edx`.
const AMX_BF16: u32 = 1 << 22;
const AMX_TILE: u32 = 1 << 24;
/// Bit of `cpuid(1).ecx`: `xgetbv` can be asked.
const OSXSAVE: u32 = 1 << 27;
/// Bits of the state that the system saves: AMX's configuration and data.
const STATE: u64 = 3 << 17;

/// Whether the processor has AMX with bfloat16, and the system lets this process use
/// it: it is asked for that, which holds for all threads, and a filter of system calls
/// that is installed later need not allow it.
pub(crate) fn allowed() -> bool {
    has() && granted()
}

fn has() -> bool {
    #[target_feature(enable = "xsave")]
    fn state() -> u64 {
        // SAFETY: register 0 is always there.
        unsafe { _xgetbv(0) }
    }
    let leaf = |leaf| __cpuid_count(leaf, 0);
    if leaf(0).eax < 7 || leaf(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let wanted = AMX_BF16 | AMX_TILE;
    // SAFETY: `xgetbv` can be asked.
    leaf(7).edx & wanted == wanted && unsafe { state() } & STATE == STATE
}

#[cfg(target_os = "linux")]
fn granted() -> bool {
    /// `ARCH_REQ_XCOMP_PERM` and `XFEATURE_XTILEDATA` of `asm/prctl.h`.
    const REQUEST: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: it changes no memory. A system that does not know it refuses.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn granted() -> bool {
    false
}

/// A configuration, as `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight registers at full size.
static WHOLE: Configuration = Configuration {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// This thread's registers, configured; released when dropped, so that the system
/// does not save them for nothing.
pub(crate) struct Registers(());

impl Registers {
    /// # Safety
    /// [`allowed`] said so.
    pub unsafe fn configured() -> Registers {
        // SAFETY: the caller's promise; a configuration of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &WHOLE, options(readonly, nostack, preserves_flags)) };
        Registers(())
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: they were configured, so the instruction is allowed.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
