//! Stores past the caches.
//!
//! An ordinary store reads the cache line that it changes first, from memory or
//! from the cores that read it last, which then have to give it up. And what is large
//! pushes out what others need soon, only to be pushed out itself before it is read.
//! So large results, and operands that are packed for all tasks, go to memory
//! directly: whole lines at once, in any order. (Not operands of AMX, whose processors
//! keep them in a large L3.)

/// Bytes from which a result is large. (On two cores of a Zen 4 chains of products
/// that read each other's results took 0.87 to 0.96 of the time from here on, 0.87 to
/// 1.04 with half as many, and up to 1.5 with an eighth.)
pub(crate) const LARGE: usize = 1 << 19;

/// Makes what this thread stored past the caches visible to whoever learns from
/// it later that it is there: no release does that.
pub(crate) fn published() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the target.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}

/// Copies `from` to `to`, of one length, past the caches; before another thread
/// reads it, [`published`].
pub(crate) fn copy(from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    let (from, to) = {
        use std::arch::x86_64::{__m128, _mm_loadu_ps, _mm_stream_ps};

        const LANES: usize = 4;
        let unaligned = to.as_ptr().align_offset(size_of::<__m128>()).min(to.len());
        to[..unaligned].copy_from_slice(&from[..unaligned]);
        let (from, to) = (&from[unaligned..], &mut to[unaligned..]);
        let whole = to.len() / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            // SAFETY: SSE is part of the target; four elements of each, and
            // those written are aligned.
            unsafe { _mm_stream_ps(to.as_mut_ptr().add(at), _mm_loadu_ps(from.as_ptr().add(at))) };
        }
        (&from[whole..], &mut to[whole..])
    };
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_whole() {
        let from: Vec<f32> = (0..100).map(|i| i as f32).collect();
        for (start, len) in (0..20).flat_map(|start| (0..40).map(move |len| (start, len))) {
            let mut to = vec![-1.0; 100];
            copy(&from[start..][..len], &mut to[7..][start / 2..][..len]);
            published();
            let first = 7 + start / 2;
            let mut expected = vec![-1.0; 100];
            expected[first..first + len].copy_from_slice(&from[start..start + len]);
            assert_eq!(to, expected);
        }
    }
}
