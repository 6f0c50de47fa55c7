//! A sandbox's child processes without an engine: for embedders that want a
//! small executable of their own in `SandboxConfig::exe`, and for the tests of
//! the lock-down, which need a process to attack from.
//!
//! `terrarium-cell attack LAYERS NAME` puts the layers in place (`files`,
//! `all`) and then tries one thing that must not work. Exit status 0 means
//! that the attack succeeded, 1 that it was refused; a kill shows as a signal.

use std::io::Write;
use terrarium_sandbox::lockdown::{Lockdown, Role};
use terrarium_sandbox::Isolation;

fn main() {
    terrarium_sandbox::child::run_if_child();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["attack", layers, name] => attack(layers, name),
        _ => {
            eprintln!("terrarium-cell plays the child of a sandbox; it is not meant to be started by hand.");
            std::process::exit(2);
        }
    }
}

fn attack(layers: &str, name: &str) {
    let role = if layers == "codegen" { Role::Codegen } else { Role::Worker };
    let isolation = Isolation::default();
    let locked = Lockdown::begin(role, isolation).and_then(|mut lockdown| {
        lockdown.files()?;
        if layers != "files" {
            lockdown.calls()?;
        }
        Ok(())
    });
    if let Err(e) = locked {
        eprintln!("{e}");
        std::process::exit(3);
    }
    println!("locked down");
    let _ = std::io::stdout().flush();
    std::process::exit(i32::from(!try_it(name)));
}

/// Whether the attack succeeded.
fn try_it(name: &str) -> bool {
    let page = 4096;
    // SAFETY: each call is made with valid or null arguments; what it would do
    // if it were allowed harms only this process.
    unsafe {
        match name {
            "nothing" => true,
            "read-file" => std::fs::read("/etc/hostname").is_ok(),
            "write-file" => std::fs::write("/tmp/terrarium-attack", "x").is_ok(),
            "list-root" => std::fs::read_dir("/").is_ok(),
            "own-memory" => std::fs::File::open("/proc/self/mem").is_ok(),
            "execute" => std::process::Command::new("/bin/true").status().is_ok(),
            "connect" => std::net::TcpStream::connect("127.0.0.1:1").is_ok(),
            "socket" => libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) >= 0,
            "fork" => libc::fork() >= 0,
            "thread" => std::thread::Builder::new().spawn(|| ()).is_ok(),
            "map-executable" => {
                let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
                libc::mmap(std::ptr::null_mut(), page, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
                    != libc::MAP_FAILED
            }
            "make-executable" => {
                let prot = libc::PROT_READ | libc::PROT_WRITE;
                let p = libc::mmap(
                    std::ptr::null_mut(),
                    page,
                    prot,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                p != libc::MAP_FAILED && libc::mprotect(p, page, libc::PROT_READ | libc::PROT_EXEC) == 0
            }
            "signal-parent" => libc::kill(libc::getppid(), libc::SIGCONT) == 0,
            "trace" => libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0,
            "io-uring" => libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null_mut::<u8>()) >= 0,
            "raise-limits" => {
                let limit = libc::rlimit { rlim_cur: 1 << 30, rlim_max: 1 << 30 };
                libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0
            }
            "write-beyond" => {
                // A memory file counts against no folder; the limit on file
                // sizes and the filter must stop it all the same.
                libc::syscall(libc::SYS_memfd_create, c"x".as_ptr(), 0) >= 0
            }
            _ => {
                eprintln!("no attack named {name}");
                std::process::exit(3);
            }
        }
    }
}
