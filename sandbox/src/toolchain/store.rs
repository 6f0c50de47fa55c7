//! The cache folder: locks, keys, external commands, and things that appear
//! whole or not at all.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Dirs, ToolchainError};

/// Creates a folder and its parents.
pub fn make_dir(path: &Path) -> Result<(), ToolchainError> {
    fs::create_dir_all(path).map_err(|e| ToolchainError::io("create", path, e))
}

/// Holds an advisory lock until it is dropped; the kernel lets go of it when
/// the process dies, so a killed set-up leaves nothing to clean.
pub struct Lock {
    _file: File,
}

/// Takes the lock of this name, waiting for whoever holds it.
pub fn lock(dirs: &Dirs, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Lock, ToolchainError> {
    let folder = dirs.cache.join("locks");
    make_dir(&folder)?;
    let path = folder.join(format!("{name}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| ToolchainError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            progress("waiting for another set-up to finish");
            file.lock().map_err(|e| ToolchainError::io("lock", &path, e))?;
        }
        Err(fs::TryLockError::Error(e)) => return Err(ToolchainError::io("lock", &path, e)),
    }
    Ok(Lock { _file: file })
}

/// A folder under construction, beside its final place. Dropped before
/// [`Staging::publish`], it disappears.
pub struct Staging {
    folder: tempfile::TempDir,
}

impl Staging {
    /// Starts one for `target`, whose parent is created.
    pub fn beside(target: &Path) -> Result<Self, ToolchainError> {
        let parent = target.parent().unwrap_or(Path::new("/"));
        make_dir(parent)?;
        // Left by a set-up that was killed; the lock says that nobody uses them.
        for entry in fs::read_dir(parent).map_err(|e| ToolchainError::io("read", parent, e))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".staging-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let folder = tempfile::Builder::new()
            .prefix(".staging-")
            .tempdir_in(parent)
            .map_err(|e| ToolchainError::io("create a folder in", parent, e))?;
        Ok(Self { folder })
    }

    /// The folder to fill.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts the folder in its place, in one step.
    pub fn publish(self, target: &Path) -> Result<(), ToolchainError> {
        if target.exists() {
            fs::remove_dir_all(target).map_err(|e| ToolchainError::io("replace", target, e))?;
        }
        let path = self.folder.keep();
        fs::rename(&path, target).map_err(|e| ToolchainError::io("rename to", target, e))
    }
}

/// Writes a file that is either the old one or the new one, never half.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ToolchainError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_dir(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)
        .map_err(|e| ToolchainError::io("create a file in", parent, e))?;
    std::io::Write::write_all(&mut file, bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|e| ToolchainError::io("write", path, e))?;
    file.persist(path).map_err(|e| ToolchainError::io("write", path, e.error))?;
    Ok(())
}

/// Feeds every file below `root` (names sorted, names and bytes) to the hash.
/// Build folders are left out.
pub fn hash_tree(hasher: &mut blake3::Hasher, root: &Path) -> Result<(), ToolchainError> {
    let mut pending = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| ToolchainError::io("read", &folder, e))? {
            let entry = entry.map_err(|e| ToolchainError::io("read", &folder, e))?;
            let kind = entry.file_type().map_err(|e| ToolchainError::io("read", &entry.path(), e))?;
            let name = entry.file_name();
            if kind.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    pending.push(entry.path());
                }
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    for path in files {
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        hash_part(hasher, name.as_bytes());
        hash_part(hasher, &fs::read(&path).map_err(|e| ToolchainError::io("read", &path, e))?);
    }
    Ok(())
}

/// One length-prefixed part, so that parts cannot run into one another.
pub fn hash_part(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// A command whose environment has nothing of the cargo that may have started
/// us: `RUSTC`, `RUSTFLAGS`, target folders and profiles would change what is
/// built, or make the user's own build start over.
pub fn clean_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    const KEPT: &[&str] =
        &["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"];
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        let ours =
            ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC"].iter().any(|prefix| name_text.starts_with(prefix))
                || name_text == "LD_LIBRARY_PATH"
                || name_text == "MAKEFLAGS";
        if ours && !KEPT.iter().any(|kept| name_text.starts_with(kept)) {
            command.env_remove(&name);
        }
    }
    command
}

/// What an external command of the set-up did.
pub struct Step<'a> {
    /// For the log's name and for messages.
    pub name: &'a str,
    /// After this long its whole process group is killed.
    pub limit: Duration,
}

impl Step<'_> {
    /// Runs it to its end. Its output goes to `logs/<name>.log`; the last lines
    /// of it are in the error.
    pub fn run(&self, dirs: &Dirs, command: &mut Command) -> Result<(), ToolchainError> {
        use std::os::unix::process::CommandExt;
        let folder = dirs.cache.join("logs");
        make_dir(&folder)?;
        let log = folder.join(format!("{}.log", self.name));
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&log)
            .map_err(|e| ToolchainError::io("create", &log, e))?;
        let clone = |file: &File| file.try_clone().map_err(|e| ToolchainError::io("open", &log, e));
        let failed =
            |detail: String| ToolchainError::Step { step: self.name.into(), detail, log: Some(log.clone()) };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(clone(&file)?)
            .stderr(clone(&file)?)
            .process_group(0)
            .spawn()
            .map_err(|e| failed(format!("cannot start {}: {e}", command.get_program().to_string_lossy())))?;
        let end = Instant::now() + self.limit;
        let status = loop {
            match child.try_wait().map_err(|e| failed(e.to_string()))? {
                Some(status) => break status,
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                None => {
                    if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
                        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                    }
                    let _ = child.wait();
                    return Err(failed(format!("not finished after {} s", self.limit.as_secs())));
                }
            }
        };
        if status.success() {
            return Ok(());
        }
        Err(failed(format!("{status}: {}", tail(&mut file))))
    }
}

/// The last few lines of a log, on one line.
fn tail(file: &mut File) -> String {
    let mut text = String::new();
    let length = file.seek(SeekFrom::End(0)).unwrap_or(0);
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(2000)));
    let mut bytes = Vec::new();
    let _ = file.read_to_end(&mut bytes);
    let lossy = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = lossy.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    for line in lines.iter().skip(lines.len().saturating_sub(3)) {
        if !text.is_empty() {
            text.push_str(" / ");
        }
        text.extend(line.chars().filter(|c| !c.is_control()));
    }
    text
}

/// Runs a short query (a version, a path) and returns its stdout, trimmed.
pub fn query(command: &mut Command) -> Result<String, ToolchainError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |detail: String| ToolchainError::Step { step: name.clone(), detail, log: None };
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first program of this name on the path, symbolic links kept.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs() -> (tempfile::TempDir, Dirs) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dirs = Dirs { cache: folder.path().join("cache"), templates: folder.path().into() };
        (folder, dirs)
    }

    #[test]
    fn an_unpublished_folder_disappears_and_a_published_one_is_whole() {
        let (_folder, dirs) = dirs();
        let target = dirs.cache.join("thing");
        let staging = Staging::beside(&target).expect("staging");
        fs::write(staging.path().join("a"), b"1").expect("write");
        drop(staging);
        assert!(!target.exists());
        assert_eq!(fs::read_dir(&dirs.cache).expect("list").count(), 0);
        let staging = Staging::beside(&target).expect("staging");
        fs::write(staging.path().join("a"), b"2").expect("write");
        staging.publish(&target).expect("publish");
        assert_eq!(fs::read(target.join("a")).expect("read"), b"2");
    }

    #[test]
    fn what_a_killed_set_up_left_is_cleaned_by_the_next() {
        let (_folder, dirs) = dirs();
        let target = dirs.cache.join("thing");
        fs::create_dir_all(dirs.cache.join(".staging-old")).expect("create");
        let staging = Staging::beside(&target).expect("staging");
        assert!(!dirs.cache.join(".staging-old").exists());
        drop(staging);
    }

    #[test]
    fn the_key_of_a_tree_changes_with_names_and_with_bytes() {
        let (folder, _dirs) = dirs();
        let root = folder.path().join("tree");
        let key = |files: &[(&str, &str)]| {
            let _ = fs::remove_dir_all(&root);
            for (name, text) in files {
                let path = root.join(name);
                fs::create_dir_all(path.parent().expect("parent")).expect("create");
                fs::write(path, text).expect("write");
            }
            let mut hasher = blake3::Hasher::new();
            hash_tree(&mut hasher, &root).expect("hash");
            hasher.finalize()
        };
        let base = key(&[("a", "x"), ("b/c", "y")]);
        assert_eq!(base, key(&[("b/c", "y"), ("a", "x"), ("target/t", "ignored")]));
        assert_ne!(base, key(&[("a", "x"), ("b/d", "y")]));
        assert_ne!(base, key(&[("a", "xy"), ("b/c", "")]));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_its_children() {
        let (_folder, dirs) = dirs();
        let step = Step { name: "sleep", limit: Duration::from_millis(200) };
        let started = Instant::now();
        let error = step
            .run(&dirs, Command::new("sh").args(["-c", "sleep 60 & sleep 60"]))
            .expect_err("must time out");
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(error.to_string().contains("not finished"), "{error}");
    }

    #[test]
    fn a_failed_command_is_reported_with_its_last_words() {
        let (_folder, dirs) = dirs();
        let step = Step { name: "words", limit: Duration::from_secs(20) };
        let error = step
            .run(&dirs, Command::new("sh").args(["-c", "echo last words >&2; exit 3"]))
            .expect_err("fails");
        assert!(error.to_string().contains("last words"), "{error}");
        assert!(error.hint().contains("words.log"), "{}", error.hint());
    }

    #[test]
    fn the_second_lock_waits_for_the_first() {
        let (_folder, dirs) = dirs();
        let first = lock(&dirs, "setup", &mut |_| {}).expect("first");
        let waiter = {
            let dirs = dirs.clone();
            std::thread::spawn(move || {
                let mut said = Vec::new();
                let _second = lock(&dirs, "setup", &mut |line| said.push(line.to_owned())).expect("second");
                (said, Instant::now())
            })
        };
        std::thread::sleep(Duration::from_millis(200));
        let released = Instant::now();
        drop(first);
        let (said, taken) = waiter.join().expect("the waiter");
        assert!(taken >= released);
        assert_eq!(said, ["waiting for another set-up to finish"]);
    }
}
