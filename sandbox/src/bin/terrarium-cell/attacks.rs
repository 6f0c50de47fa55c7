//! One function an attack. Each says whether it worked: whether the process
//! got something that lies outside of its job, or a call through whose only
//! use is to get there.

use std::io::{Error, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::process::CommandExt;

/// What an attack aims at, given as `KEY=VALUE`.
pub struct Aim {
    pid: i32,
    port: u16,
    name: String,
    folder: String,
    descriptor: i32,
}

impl Aim {
    pub fn new(words: &[&str]) -> Self {
        let value = |key: &str| {
            let word = words.iter().find_map(|word| word.split_once('=').filter(|(name, _)| *name == key));
            word.map_or("", |(_, value)| value)
        };
        Self {
            // Never 0 or -1, which would mean a group or everybody.
            pid: value("pid").parse().unwrap_or(i32::MAX),
            port: value("port").parse().unwrap_or(1),
            name: value("name").to_owned(),
            folder: value("folder").to_owned(),
            descriptor: value("descriptor").parse().unwrap_or(57),
        }
    }

    fn pid(&self) -> i64 {
        self.pid.into()
    }
}

/// The variable that the engine of the tests has in its environment.
pub const KEY: &str = "TERRARIUM_TEST_API_KEY";

type Attack = fn(&Aim) -> bool;

/// All of them, by name.
pub const ALL: &[(&str, Attack)] = &[
    ("nothing", |_| true),
    ("read-passwd", |_| std::fs::read("/etc/passwd").is_ok()),
    ("write-outside", |aim| std::fs::write(format!("{}/planted", aim.folder), "x").is_ok()),
    ("list-root", |_| std::fs::read_dir("/").is_ok()),
    ("open-device", |_| std::fs::File::open("/dev/zero").is_ok()),
    ("own-memory-file", |_| std::fs::File::open("/proc/self/mem").is_ok()),
    ("list-processes", |aim| std::fs::metadata(format!("/proc/{}", aim.pid)).is_ok()),
    ("key-in-environment", |_| std::env::var_os(KEY).is_some()),
    ("key-in-engine-environ", |aim| holds_key(&format!("/proc/{}/environ", aim.pid))),
    ("key-in-parent-environ", |_| {
        holds_key(&format!("/proc/{}/environ", std::os::unix::process::parent_id()))
    }),
    ("inherited-descriptor", inherited_descriptor),
    ("execute", |_| std::process::Command::new("/bin/true").status().is_ok()),
    ("memfd-execute", memfd_execute),
    ("executable-memory", |_| map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC).is_some()),
    ("make-memory-executable", |_| {
        map(libc::PROT_READ | libc::PROT_WRITE).is_some_and(|page| {
            // SAFETY: the page was mapped here and is used by nobody.
            unsafe { libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) == 0 }
        })
    }),
    ("thread", |_| std::thread::Builder::new().spawn(|| ()).is_ok_and(|thread| thread.join().is_ok())),
    ("fork", |_| fork_one()),
    ("fork-bomb", |_| (0..700).all(|_| fork_one())),
    ("linger", |_| {
        fork_one();
        std::thread::sleep(std::time::Duration::from_secs(15));
        true
    }),
    ("tcp", |aim| std::net::TcpStream::connect(("127.0.0.1", aim.port)).is_ok()),
    ("udp-socket", |_| std::net::UdpSocket::bind("127.0.0.1:0").is_ok()),
    ("abstract-socket", |aim| {
        std::os::unix::net::SocketAddr::from_abstract_name(&aim.name)
            .and_then(|address| std::os::unix::net::UnixStream::connect_addr(&address))
            .is_ok()
    }),
    ("shared-memory", |_| call(libc::SYS_shmget, &[0, 4096, 0o600])),
    ("signal-victim", |aim| call(libc::SYS_kill, &[aim.pid(), SIGCONT])),
    // Signal 0 asks whether it might.
    ("signal-everybody", |_| call(libc::SYS_kill, &[-1, 0])),
    ("signal-thread-of-victim", |aim| call(libc::SYS_tgkill, &[aim.pid(), aim.pid(), SIGCONT])),
    ("signal-by-descriptor-owner", |aim| call(libc::SYS_fcntl, &[0, libc::F_SETOWN.into(), aim.pid()])),
    ("trace-victim", |aim| call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE.into(), aim.pid(), 0, 0])),
    ("read-victim-memory", read_victim_memory),
    ("victim-limits", |aim| {
        let mut old = [0_u64; 2];
        let old = old.as_mut_ptr() as i64;
        call(libc::SYS_prlimit64, &[aim.pid(), libc::RLIMIT_NOFILE.into(), 0, old])
    }),
    ("victim-priority", |aim| call(libc::SYS_setpriority, &[libc::PRIO_PROCESS.into(), aim.pid(), 19])),
    ("victim-processors", |aim| {
        let all = [0xff_u8; 128];
        call(libc::SYS_sched_setaffinity, &[aim.pid(), 128, all.as_ptr() as i64])
    }),
    ("victim-descriptor", |aim| call(libc::SYS_pidfd_open, &[aim.pid(), 0])),
    ("io-uring", |_| {
        let mut parameters = [0_u64; 15];
        call(libc::SYS_io_uring_setup, &[1, parameters.as_mut_ptr() as i64])
    }),
    ("userfaultfd", |_| call(libc::SYS_userfaultfd, &[libc::O_CLOEXEC.into()])),
    ("bpf", |_| call(libc::SYS_bpf, &[0, 0, 0])),
    ("perf-events", |_| call(libc::SYS_perf_event_open, &[0, 0, -1, -1, 0])),
    // KEYCTL_GET_KEYRING_ID of the session's keyring.
    ("keyring", |_| call(libc::SYS_keyctl, &[0, -3, 1, 0, 0])),
    ("unshare", |_| own_user_namespace()),
    ("mount", |_| {
        let tmpfs = c"tmpfs".as_ptr() as i64;
        own_user_namespace() && call(libc::SYS_mount, &[tmpfs, c"/tmp".as_ptr() as i64, tmpfs, 0, 0])
    }),
    ("chroot", |_| own_user_namespace() && call(libc::SYS_chroot, &[c"/".as_ptr() as i64])),
    ("setns", |_| call(libc::SYS_setns, &[0, 0])),
    ("type-into-terminal", |_| call(libc::SYS_ioctl, &[0, libc::TIOCSTI as i64, c"x".as_ptr() as i64])),
    ("raise-limits", |_| {
        let limit = [u64::MAX, u64::MAX];
        call(libc::SYS_prlimit64, &[0, libc::RLIMIT_NOFILE.into(), limit.as_ptr() as i64, 0])
    }),
];

const SIGCONT: i64 = libc::SIGCONT as i64;

/// Whether a system call got through to what it is for: it worked, or failed
/// for another reason than that it may not be made.
fn call(number: i64, arguments: &[i64]) -> bool {
    let argument = |at: usize| arguments.get(at).copied().unwrap_or(0);
    let (a, b, c, d, e) = (argument(0), argument(1), argument(2), argument(3), argument(4));
    // SAFETY: every caller passes plain numbers, null, or pointers to values
    // that live during the call; what an allowed call does harms only this
    // process, which ends at once, or the victim of the tests.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    let refused = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ESRCH];
    result >= 0 || !refused.contains(&Error::last_os_error().raw_os_error().unwrap_or(0))
}

fn holds_key(path: &str) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return false };
    bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes())
}

fn inherited_descriptor(aim: &Aim) -> bool {
    let mut bytes = [0_u8; 16];
    // SAFETY: the pointer is to a live array of that length.
    unsafe { libc::pread(aim.descriptor, bytes.as_mut_ptr().cast(), bytes.len(), 0) > 0 }
}

fn map(protection: i32) -> Option<*mut libc::c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous page at a place of the kernel's choice.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    (page != libc::MAP_FAILED).then_some(page)
}

/// A child that sleeps for a while.
fn fork_one() -> bool {
    // SAFETY: there is one thread; the child does nothing but sleep and end.
    unsafe {
        match libc::fork() {
            -1 => false,
            0 => {
                std::thread::sleep(std::time::Duration::from_secs(15));
                libc::_exit(0)
            }
            _ => true,
        }
    }
}

fn memfd_execute(_: &Aim) -> bool {
    // SAFETY: the name lives; the result is checked.
    let file = unsafe { libc::memfd_create(c"x".as_ptr(), 0) };
    if file < 0 {
        return false;
    }
    let mut program = Vec::new();
    let read = std::fs::File::open("/bin/true").and_then(|mut file| file.read_to_end(&mut program));
    // SAFETY: the pointer is to a live buffer of that length.
    let wrote = unsafe { libc::write(file, program.as_ptr().cast(), program.len()) };
    let path = format!("/proc/self/fd/{file}");
    read.is_ok() && wrote > 0 && {
        // Only returns where it does not work.
        let _ = std::process::Command::new(path).exec();
        false
    }
}

fn read_victim_memory(aim: &Aim) -> bool {
    let mut byte = 0_u8;
    let here = [(&raw mut byte) as u64, 1];
    // Not mapped there: an allowed call fails with EFAULT.
    let there = [0x1000_u64, 1];
    let (here, there) = (here.as_ptr() as i64, there.as_ptr() as i64);
    call(libc::SYS_process_vm_readv, &[aim.pid(), here, 1, there, 1])
}

fn own_user_namespace() -> bool {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    call(libc::SYS_unshare, &[flags.into()])
}
