//! The hostile corpus: `tests/escape/FAMILY/NAME`, one attack a file.
//!
//! An attack is a small source (Rust, WebAssembly text, or bytes in hex). The
//! comment that it begins with says what it tries and how it must end:
//!
//! ```text
//! attack:  what is tried, in one line
//! expect:  the outcome codes of which one must come, `rejected | trap`
//! world:   function (else) or trainer
//! via:     library (else), eval or report: the whole `terrarium` command
//! limits:  fuel=1000000 wall_ms=500; the others are those of `small_limits`
//! input:   what `call` gets, as text
//! output:  what a finished `call` must return, as text
//! score:   the bits per byte that a finished trainer must have
//! says:    text that must be in the report (may be repeated)
//! never:   text that must be nowhere in the report (may be repeated)
//! times:   how often it is evaluated, each time with the same demands
//! keys:    how many keys for the probes a trainer is tried with
//! caught:  with how many of them at least it must end as expected, and
//!          finish with the others; all, if this is not said
//! every:   prefix or flip: the module cut at every length, or with every
//!          byte changed, where any of the expected codes may come
//! ```
//!
//! `«N × text»` in an attack stands for N copies of the text, in which `#` is
//! the number of the copy. `«secret»` stands for the path of a file that the
//! runner planted, `«port»` for a port that it listens at.

mod attack;
mod expand;
mod judge;
mod trial;

pub use attack::{Attack, Every, Kind, Via, load};
pub use expand::expand;
pub use trial::{Held, Trial};
