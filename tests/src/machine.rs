//! What a test finds on the machine before it, and must find after it: no
//! process, file or socket more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::processes;

/// In the name of every file that an attack tries to leave behind.
pub const MARK: &str = "terrarium-escape";

/// One look at the machine.
#[derive(Debug)]
pub struct Machine {
    /// Open descriptors of this process.
    pub descriptors: usize,
    /// Listening sockets of this process.
    pub listening: usize,
    /// Memory of this process that is resident, in bytes.
    pub resident: u64,
    /// Processes that descend from this one.
    pub descendants: Vec<String>,
    /// Children that ended and were not waited for.
    pub zombies: usize,
    /// Files with [`MARK`] in their names, where programs leave things.
    pub marked: BTreeSet<PathBuf>,
    /// What lies in the folder for temporary files.
    pub temporary: BTreeSet<PathBuf>,
}

impl Machine {
    /// As it is now.
    pub fn look() -> Self {
        Self {
            descriptors: list(Path::new("/proc/self/fd")).len(),
            listening: listening(),
            resident: resident(),
            descendants: processes::descendants(std::process::id()).iter().map(|p| p.describe()).collect(),
            zombies: zombies(),
            marked: marked(),
            temporary: list(&std::env::temp_dir()),
        }
    }

    /// What is there now and was not there before. `growth`: by how many bytes
    /// this process may have grown.
    pub fn left_since(&self, before: &Machine, growth: u64) -> Vec<String> {
        let mut left: Vec<String> =
            self.descendants.iter().map(|process| format!("a process: {process}")).collect();
        if self.zombies > 0 {
            left.push(format!("{} zombies", self.zombies));
        }
        for (what, now, then) in [
            ("descriptors", self.descriptors, before.descriptors),
            ("listening sockets", self.listening, before.listening),
        ] {
            if now > then {
                left.push(format!("{now} {what}, and were {then}"));
            }
        }
        if self.resident > before.resident + growth {
            left.push(format!("{} bytes of memory, and were {}", self.resident, before.resident));
        }
        let files = self.marked.difference(&before.marked);
        let files = files.chain(self.temporary.difference(&before.temporary));
        left.extend(files.map(|path| format!("a file: {}", path.display())));
        left
    }
}

/// Memory of this process that is resident, in bytes.
///
/// # Panics
/// Where `/proc` is not that of Linux.
pub fn resident() -> u64 {
    // What was given back but is kept for later by the C library is not held.
    // SAFETY: takes a number and touches no memory that is in use.
    unsafe { libc::malloc_trim(0) };
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line VmRSS");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB")
}

/// Children of this process that ended and that nobody waited for.
pub fn zombies() -> usize {
    let me = std::process::id().to_string();
    let is_ours = |path: &PathBuf| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        fields.next() == Some("Z") && fields.next() == Some(&me)
    };
    list(Path::new("/proc")).iter().filter(|path| is_ours(path)).count()
}

fn list(folder: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn marked() -> BTreeSet<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let here = std::env::current_dir().ok();
    let usual = ["/", "/tmp", "/var/tmp", "/dev/shm", "/run"].map(PathBuf::from);
    let folders = usual.into_iter().chain(home).chain(here);
    let is_marked = |path: &PathBuf| path.to_string_lossy().contains(MARK);
    folders.flat_map(|folder| list(&folder)).filter(is_marked).collect()
}

/// Sockets of this process that listen: TCP in state 0A, and local ones with
/// the flag for it.
fn listening() -> usize {
    let links = list(Path::new("/proc/self/fd")).into_iter().filter_map(|path| std::fs::read_link(path).ok());
    let mine: BTreeSet<String> = links
        .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let count = |file: &str, state: usize, listens: &str, inode: usize| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines
            .filter(|f| f.get(state) == Some(&listens) && f.get(inode).is_some_and(|i| mine.contains(*i)))
            .count()
    };
    count("/proc/self/net/tcp", 3, "0A", 9)
        + count("/proc/self/net/tcp6", 3, "0A", 9)
        + count("/proc/self/net/unix", 3, "00010000", 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_behind_is_seen() {
        let before = Machine::look();
        assert_eq!(before.left_since(&before, 0), before.descendants);
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let left = Machine::look().left_since(&before, u64::MAX / 2).join("\n");
        assert!(left.contains("listening sockets") && left.contains("sleep"), "{left}");
        child.kill().unwrap();
        drop(socket);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while zombies() == 0 && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Machine::look().left_since(&before, u64::MAX / 2).join("\n").contains("zombies"));
        child.wait().unwrap();
    }
}
