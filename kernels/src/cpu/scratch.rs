//! Scratch memory of a task, kept by its thread between tasks.

use std::cell::Cell;

/// Most floats of a buffer that a thread keeps (16 MiB); larger ones are given
/// back.
pub(crate) const KEPT: usize = 1 << 22;
/// Floats of a cache line, where the scratch memory begins.
const LINE: usize = 16;

thread_local! {
    static SPARE: Cell<Vec<Vec<f32>>> = const { Cell::new(Vec::new()) };
}

/// Runs `task` with `len` floats of unspecified (but initialised) content.
/// Nested calls are fine: the inner one has a buffer of its own, which is kept
/// too.
pub(crate) fn with<R>(len: usize, task: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut spare = SPARE.take();
    let mut buffer = spare.pop().unwrap_or_default();
    SPARE.set(spare);
    if buffer.len() < len + LINE {
        buffer.resize(len + LINE, 0.0);
    }
    let skipped = buffer.as_ptr().align_offset(4 * LINE).min(LINE);
    let result = task(&mut buffer[skipped..][..len]);
    if buffer.len() <= KEPT {
        let mut spare = SPARE.take();
        spare.push(buffer);
        SPARE.set(spare);
    }
    result
}
