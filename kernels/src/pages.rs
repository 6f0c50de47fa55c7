//! Zeroed memory of this process, in huge pages where it is large.
//!
//! A product reads columns whose elements lie in another page each, of more
//! pages than the processor keeps translations of; in a virtual machine each one
//! that it misses is looked up in two trees. Where the system lends huge pages to
//! those who ask (`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise` or
//! `always`), a training step takes 0.98 of the time.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of all of it, in bytes: a cache line.
pub(crate) const ALIGN: usize = 64;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Bytes that no one else has, aligned to [`ALIGN`].
pub(crate) struct Pages {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: they are owned alone, as by a `Vec`, and not tied to a thread.
unsafe impl Send for Pages {}
// SAFETY: `&Pages` only hands out the address; whoever dereferences it states
// why no data race is possible.
unsafe impl Sync for Pages {}

impl Pages {
    /// None at all.
    pub const NONE: Pages = Pages { base: NonNull::<u64>::dangling().cast(), bytes: 0 };

    /// So many zeros, or `None` where the machine has no such memory.
    pub fn zeroed(bytes: usize) -> Option<Pages> {
        if bytes == 0 {
            return Some(Pages::NONE);
        }
        let base = match mapped(bytes) {
            Some(mapped) => system::map(mapped),
            // SAFETY: the layout has a size other than zero (checked).
            None => NonNull::new(unsafe { alloc_zeroed(Layout::from_size_align(bytes, ALIGN).ok()?) }),
        };
        Some(Pages { base: base?, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Address of the first.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Default for Pages {
    fn default() -> Self {
        Pages::NONE
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        match mapped(self.bytes) {
            Some(mapped) => system::unmap(self.base.as_ptr(), mapped),
            None => {
                let layout = Layout::from_size_align(self.bytes, ALIGN).expect("it was allocated so");
                // SAFETY: from `alloc_zeroed` with this layout, and released
                // once, here.
                unsafe { dealloc(self.base.as_ptr(), layout) };
            }
        }
    }
}

/// What is mapped for so many bytes, if they are mapped: whole huge pages, where
/// those are at most a third more; else the end lies in small ones.
fn mapped(bytes: usize) -> Option<usize> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) || bytes < HUGE / 4 * 3 {
        return None;
    }
    let whole = bytes.checked_next_multiple_of(HUGE)?;
    Some(if whole - bytes <= bytes / 3 { whole } else { bytes })
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod system {
    use super::{HUGE, NonNull};

    /// Bytes of the smallest page.
    const SMALL: usize = 4096;

    /// Maps so many bytes from the begin of a huge page on, and asks for such
    /// pages.
    pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
        let used = bytes.checked_next_multiple_of(SMALL)?;
        let room = used.checked_add(HUGE)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory, of which nobody knows.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), room, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let start = start.cast::<u8>();
        let skipped = start.align_offset(HUGE);
        let base = start.wrapping_add(skipped);
        unmap(start, skipped);
        unmap(base.wrapping_add(used), HUGE - skipped);
        // SAFETY: advice on this mapping, which changes no content. A system that
        // has no such pages refuses, and nothing is lost.
        unsafe { libc::madvise(base.cast(), used, libc::MADV_HUGEPAGE) };
        NonNull::new(base)
    }

    pub(super) fn unmap(start: *mut u8, bytes: usize) {
        if bytes > 0 {
            // SAFETY: a part of a mapping made above, which nobody uses (any
            // more). If the system cannot split the mapping, the part stays, and
            // nobody uses it.
            unsafe { libc::munmap(start.cast(), bytes) };
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod system {
    use super::NonNull;

    pub(super) fn map(_: usize) -> Option<NonNull<u8>> {
        None
    }

    pub(super) fn unmap(_: *mut u8, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_is_whole_huge_pages_unless_they_are_far_more() {
        let kib = |kib: usize| kib << 10;
        if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
            assert_eq!(mapped(kib(4096)), None);
            return;
        }
        for (bytes, expected) in [
            (kib(1536) - 1, None),
            (kib(1536), Some(kib(2048))),
            (kib(2048), Some(kib(2048))),
            (kib(2048) + 1, Some(kib(2048) + 1)),
            (kib(3072), Some(kib(4096))),
            (kib(4097), Some(kib(4097))),
            (kib(6144), Some(kib(6144))),
            (usize::MAX, None),
        ] {
            assert_eq!(mapped(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn pages_are_zeroed_aligned_and_apart() {
        assert!(Pages::zeroed(usize::MAX / 2).is_none());
        assert!(Pages::zeroed(usize::MAX).is_none());
        let none = Pages::zeroed(0).unwrap();
        assert_eq!((none.bytes(), none.base().addr() % size_of::<u64>()), (0, 0));
        // Again and again, so that what was given back comes back.
        for round in 0..3 {
            let all: Vec<Pages> = [1, 4000, 1 << 20, 1536 << 10, (2 << 20) + 1, 3 << 20, 5 << 20]
                .map(|bytes| Pages::zeroed(bytes).unwrap())
                .into();
            for (i, pages) in all.iter().enumerate() {
                assert_eq!(pages.base().addr() % ALIGN, 0);
                assert!(mapped(pages.bytes()).is_none() || pages.base().addr() % HUGE == 0);
                // SAFETY: so many bytes, which this thread alone uses.
                let bytes = unsafe { std::slice::from_raw_parts_mut(pages.base(), pages.bytes()) };
                assert!(bytes.iter().all(|&byte| byte == 0), "round {round}, {i}");
                bytes.fill(i as u8 + 1);
            }
            for (i, pages) in all.iter().enumerate() {
                // SAFETY: as above.
                let bytes = unsafe { std::slice::from_raw_parts(pages.base(), pages.bytes()) };
                assert!(bytes.iter().all(|&byte| byte == i as u8 + 1), "round {round}, {i}");
            }
        }
    }

    /// The flags of the mapping that holds an address (`man 5 proc_pid_smaps`).
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn flags(address: usize) -> Option<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            if let Some((begin, end)) = range.and_then(|(begin, end)| number(begin).zip(number(end))) {
                inside = (begin..end).contains(&address);
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return Some(flags.to_owned());
            }
        }
        None
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn what_is_large_asks_for_huge_pages_and_is_given_back() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return;
        }
        // So large that its middle stays free when others take from its place.
        let pages = Pages::zeroed(2 << 30).unwrap();
        let [first, middle] = [0, pages.bytes() / 2].map(|at| pages.base().addr() + at);
        for address in [first, middle] {
            assert!(flags(address).unwrap().split(' ').any(|flag| flag == "hg"));
        }
        drop(pages);
        assert_eq!(flags(middle), None);
    }

    /// The limit on a worker's memory counts what is mapped, used or not.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn nothing_stays_mapped_around_what_was_asked_for() {
        let mapped = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
        };
        let before = mapped();
        // A huge page of each would be 16 GiB, far more than other tests map.
        for _ in 0..8192 {
            Pages::zeroed(3 << 20).unwrap();
        }
        assert!(mapped() < before + (4 << 30));
    }
}
