//! Namespaces of a process's own, and a root folder that shows nothing but
//! what it needs. No privilege is asked for: all of it happens inside a user
//! namespace.
//!
//! Order: [`enter`] while there is one thread; what must still be found by its
//! old path is opened; then [`own_root`]; then [`drop_capabilities`].
//! (`user_namespaces(7)`, `mount_namespaces(7)`, `pivot_root(2)`.)

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Which namespaces to leave besides the user's, the mounts' and the IPC's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The network. Costs about half a millisecond.
    pub network: bool,
    /// Process numbers. Binds the children of the caller, not the caller.
    pub processes: bool,
}

/// What may be done below a path in the new root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Read and execute.
    Read,
    /// Read and write; nothing there can be executed.
    Write,
}

/// One file or folder of the new root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Show {
    /// Where it lies in the new root; absolute.
    pub at: PathBuf,
    /// Where it lies now.
    pub from: PathBuf,
    /// What may be done there.
    pub access: Access,
}

/// Another name of something that is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Where it lies in the new root; absolute.
    pub at: PathBuf,
    /// What it names; absolute, shown in the new root.
    pub to: PathBuf,
}

impl Show {
    /// At its own place.
    pub(crate) fn same(path: &Path, access: Access) -> Self {
        Self { at: path.to_owned(), from: path.to_owned(), access }
    }
}

/// Moves this process into a user namespace and others below it. On failure
/// nothing has changed.
pub(crate) fn enter(wanted: Wanted) -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if wanted.network {
        flags |= libc::CLONE_NEWNET;
    }
    if wanted.processes {
        flags |= libc::CLONE_NEWPID;
    }
    // SAFETY: `unshare` takes flags and touches no memory of ours. Exercised
    // by every compile and every worker of the tests.
    if unsafe { libc::unshare(flags) } != 0 {
        return Err(format!("unshare: {}", io::Error::last_os_error()));
    }
    // Never 0 inside: a program that is started with the number of root would
    // look at capabilities in another way.
    let inside = |id: u32| if id == 0 { 1000 } else { id };
    let write = |file: &str, text: String| {
        fs::write(Path::new("/proc/self").join(file), text).map_err(|e| format!("{file}: {e}"))
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{} {uid} 1", inside(uid)))?;
    write("gid_map", format!("{} {gid} 1", inside(gid)))
}

/// Gives up every capability that the user namespace brought. Binds this
/// thread and those it starts.
pub(crate) fn drop_capabilities() -> Result<(), String> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(|e| format!("capset: {e}"))
}

/// Replaces the root folder by an empty one, which cannot be written, in which
/// the given paths lie, and links to them. Paths that do not exist are left
/// out. On failure the old root is still there.
pub(crate) fn own_root(show: &[Show], links: &[Link]) -> Result<(), String> {
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None).map_err(in_step("private mounts"))?;
    // Opened before anything is covered by the new root.
    let mut sources = Vec::new();
    for Show { at, from, access } in show {
        let open = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(from);
        match open {
            Ok(file) => sources.push((at, *access, file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{}: {e}", from.display())),
        }
    }
    // Shorter paths first, so that a folder does not cover what lies in it.
    sources.sort_by_key(|(at, ..)| at.components().count());
    let base = ["/tmp", "/run", "/mnt", "/var/tmp"]
        .into_iter()
        .find(|place| Path::new(place).is_dir())
        .ok_or("there is no folder to build a root in")?;
    let place = CString::new(base).map_err(|e| e.to_string())?;
    let quiet = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(Some(c"tmpfs"), &place, Some(c"tmpfs"), quiet, Some(c"size=1m,mode=0755"))
        .map_err(in_step("an empty file system"))?;
    enter_root(base, &sources, links).inspect_err(|_| {
        // SAFETY: the pointer is to a C string that lives. What the new root
        // covered can be seen again.
        unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
    })?;
    let fixed = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | quiet;
    mount(None, c"/", None, fixed, None).map_err(in_step("a root that cannot be written"))?;
    std::env::set_current_dir("/").map_err(in_step("chdir"))
}

/// Fills the file system at `base` and makes it the root.
fn enter_root(base: &str, sources: &[(&PathBuf, Access, fs::File)], links: &[Link]) -> Result<(), String> {
    std::env::set_current_dir(base).map_err(in_step("chdir"))?;
    for (path, access, file) in sources {
        show_one(path, *access, file).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    for link in links {
        lay(link).map_err(|e| format!("{}: {e}", link.at.display()))?;
    }
    // `pivot_root(".", ".")` stacks the old root upon the new one, from where
    // it is taken away (pivot_root(2), NOTES).
    // SAFETY: both pointers are to C strings that live; the call changes mounts
    // of this namespace alone. Exercised by the tests of every level.
    let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    if pivoted != 0 {
        return Err(format!("pivot_root: {}", io::Error::last_os_error()));
    }
    // SAFETY: as above.
    if unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) } != 0 {
        return Err(format!("umount: {}", io::Error::last_os_error()));
    }
    Ok(())
}

/// Lays one file or folder into the new root, which is the current folder.
fn show_one(path: &Path, access: Access, file: &fs::File) -> io::Result<()> {
    let target = path.strip_prefix("/").map_err(io::Error::other)?;
    if file.metadata()?.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        // It may lie in a folder that is shown already.
        if !target.exists() {
            fs::File::create(target)?;
        }
    }
    let source = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let target = CString::new(target.as_os_str().as_bytes())?;
    mount(Some(&source), &target, None, libc::MS_BIND | libc::MS_REC, None)?;
    let flags = match access {
        Access::Read => libc::MS_RDONLY,
        Access::Write => libc::MS_NOEXEC,
    };
    let flags =
        libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOSUID | libc::MS_NODEV | flags | locked(&target)?;
    mount(None, &target, None, flags, None)
}

/// Lays a link into the new root, which is the current folder, unless its
/// place is taken.
fn lay(link: &Link) -> io::Result<()> {
    let at = link.at.strip_prefix("/").map_err(io::Error::other)?;
    if at.symlink_metadata().is_ok() {
        return Ok(());
    }
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    std::os::unix::fs::symlink(&link.to, at)
}

/// The flags of a mount that its owner set and that may not be taken off.
fn locked(path: &CStr) -> io::Result<libc::c_ulong> {
    // SAFETY: `statvfs` is plain numbers, for which zero is a value; both
    // pointers live. Exercised by the tests of every level.
    let found = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &raw mut found) != 0 {
            return Err(io::Error::last_os_error());
        }
        found
    };
    Ok([
        (libc::ST_RDONLY, libc::MS_RDONLY),
        (libc::ST_NOSUID, libc::MS_NOSUID),
        (libc::ST_NODEV, libc::MS_NODEV),
        (libc::ST_NOEXEC, libc::MS_NOEXEC),
        (libc::ST_NOATIME, libc::MS_NOATIME),
        (libc::ST_NODIRATIME, libc::MS_NODIRATIME),
        (libc::ST_RELATIME, libc::MS_RELATIME),
    ]
    .into_iter()
    .filter(|(has, _)| found.f_flag & has != 0)
    .fold(0, |all, (_, flag)| all | flag))
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: each pointer is null, where mount(2) allows it, or to a C string
    // that outlives the call. Exercised by the tests of every level.
    let result =
        unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, pointer(data).cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn in_step(step: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{step}: {error}")
}

/// The other names of shared libraries: the loader asks for `libz.so.1` where
/// the file is `libz.so.1.3`, for its interpreter in `/lib64`, and for `/lib`
/// where the folder is `/usr/lib`. Those that a compiler brings along it finds
/// relative to `/proc/self/exe`, which a root of one's own does not have: they
/// are named where the loader looks by itself.
///
/// Reads whole folders, which takes milliseconds, so what was found for a list
/// is kept as long as this process lives.
pub(crate) fn other_names(libraries: &[PathBuf]) -> Arc<[Link]> {
    static FOUND: Mutex<BTreeMap<Vec<PathBuf>, Arc<[Link]>>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(links) = found.get(libraries) {
        return Arc::clone(links);
    }
    let links: Arc<[Link]> = look_for_names(libraries).into();
    found.insert(libraries.to_vec(), Arc::clone(&links));
    links
}

fn look_for_names(libraries: &[PathBuf]) -> Vec<Link> {
    let meant = |path: &Path| fs::canonicalize(path).ok().filter(|real| libraries.contains(real));
    let names: BTreeSet<_> = libraries.iter().filter_map(|path| path.file_name()).collect();
    let mut folders: BTreeSet<&Path> = libraries.iter().filter_map(|path| path.parent()).collect();
    folders.extend(["/lib64", "/lib"].map(Path::new));
    let mut links = BTreeSet::new();
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let at = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_symlink())
            && let Ok(target) = fs::read_link(&at)
            && target.file_name().is_some_and(|name| names.contains(name))
            && let Some(to) = meant(&at)
        {
            links.insert(Link { at, to });
        }
    }
    let short: Vec<Link> = libraries
        .iter()
        .chain(links.iter().map(|link| &link.at))
        .filter_map(|path| {
            let at = Path::new("/").join(path.strip_prefix("/usr").ok()?);
            let to = meant(&at)?;
            Some(Link { at, to })
        })
        .collect();
    links.extend(short);
    for library in libraries.iter().filter(|path| is_library(path)) {
        let Some(name) = library.file_name() else { continue };
        let folders = ["/lib", "/lib64"].map(|folder| Path::new(folder).join(name));
        links.extend(folders.map(|at| Link { at, to: library.clone() }));
    }
    links.into_iter().filter(|link| !libraries.contains(&link.at)).collect()
}

/// A shared library that does not lie where the loader looks by itself.
fn is_library(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"].iter().any(|folder| path.starts_with(folder));
    !system && name.contains(".so")
}

/// Whether somebody else, such as bubblewrap, has given this process a root of
/// its own: a file system in memory that cannot be written, without users.
pub(crate) fn root_is_small() -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let tmpfs = rustix::fs::statfs("/").is_ok_and(|found| found.f_type as u64 == TMPFS_MAGIC);
    let fixed = rustix::fs::statvfs("/")
        .is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    tmpfs && fixed && !Path::new("/etc/passwd").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_found_by_its_other_names() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let real = folder.join("libx.so.1.2");
        fs::write(&real, "").unwrap();
        fs::write(folder.join("liby.so"), "").unwrap();
        std::os::unix::fs::symlink("libx.so.1.2", folder.join("libx.so.1")).unwrap();
        std::os::unix::fs::symlink("liby.so", folder.join("liby.so.1")).unwrap();
        let found = other_names(std::slice::from_ref(&real));
        assert!(found.contains(&Link { at: folder.join("libx.so.1"), to: real.clone() }), "{found:?}");
        assert!(found.contains(&Link { at: "/lib/libx.so.1.2".into(), to: real.clone() }), "{found:?}");
        assert!(found.iter().all(|link| !link.at.ends_with("liby.so.1")), "{found:?}");
    }
}
