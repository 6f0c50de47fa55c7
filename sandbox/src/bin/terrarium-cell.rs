//! A sandbox's child processes without an engine: for embedders that want a
//! small executable of their own in `SandboxConfig::exe`, and for the tests of
//! the isolation, which need a process to attack from.
//!
//! - `terrarium-cell attack worker|codegen|jail ISOLATION NAME [KEY=VALUE…]`
//!   puts the layers of that process in place and then tries one thing that
//!   must not work. Exit status 0 means that the attack succeeded, 1 that it
//!   was refused; a kill shows as a signal.
//! - `terrarium-cell victim` is what the attacks aim at: a process of the same
//!   user that listens, has a secret in its environment, and waits.

#[path = "terrarium-cell/attacks.rs"]
mod attacks;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use attacks::Aim;
use terrarium_sandbox::jail::{self, CompileLimits};
use terrarium_sandbox::lockdown::{Lockdown, LockdownError, Role};
use terrarium_sandbox::{Isolation, clean};

/// The attack succeeded.
const WORKED: i32 = 0;
/// It was refused.
const REFUSED: i32 = 1;
/// It could not be tried.
const NOT_TRIED: i32 = 3;

fn main() {
    terrarium_sandbox::child::run_if_child();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match words.as_slice() {
        ["attack", "jail", isolation, rest @ ..] => jailed(isolation, rest),
        ["attack", process, isolation, rest @ ..] => started(process, isolation, rest),
        ["locked", process, isolation, name, aim @ ..] => locked(process, isolation, name, aim),
        ["try", name, aim @ ..] => attempt(name, aim),
        ["victim"] => victim(),
        ["list"] => {
            for (name, _) in attacks::ALL {
                println!("{name}");
            }
            WORKED
        }
        _ => {
            eprintln!("terrarium-cell plays the child of a sandbox; it is not meant to be started by hand.");
            2
        }
    };
    std::process::exit(code);
}

fn not_tried(why: impl std::fmt::Display) -> i32 {
    eprintln!("{why}");
    NOT_TRIED
}

/// As a sandbox starts its workers: a new process without an environment.
fn started(process: &str, isolation: &str, rest: &[&str]) -> i32 {
    let started = std::env::current_exe().and_then(|exe| {
        Command::new(exe)
            .args(["locked", process, isolation])
            .args(rest)
            .env_clear()
            .current_dir("/")
            .status()
    });
    match started {
        Ok(status) => status.code().unwrap_or_else(|| {
            use std::os::unix::process::ExitStatusExt;
            128 + status.signal().unwrap_or(0)
        }),
        Err(e) => not_tried(e),
    }
}

fn locked(process: &str, isolation: &str, name: &str, aim: &[&str]) -> i32 {
    let role = if process == "codegen" { Role::Codegen } else { Role::Worker };
    let isolation: Isolation = match isolation.parse() {
        Ok(isolation) => isolation,
        Err(e) => return not_tried(e),
    };
    let down = || -> Result<(), LockdownError> {
        let mut lockdown = Lockdown::begin(role, isolation)?;
        lockdown.files()?;
        lockdown.calls().map(drop)
    };
    match down() {
        Ok(()) => {
            println!("locked down");
            let _ = std::io::stdout().flush();
            attempt(name, aim)
        }
        Err(e) => not_tried(e),
    }
}

fn attempt(name: &str, aim: &[&str]) -> i32 {
    match attacks::ALL.iter().find(|(known, _)| *known == name) {
        Some((_, attack)) if attack(&Aim::new(aim)) => WORKED,
        Some(_) => REFUSED,
        None => not_tried(format!("no attack named {name}")),
    }
}

/// The same from inside the compile jail, of which this process is the engine.
fn jailed(isolation: &str, rest: &[&str]) -> i32 {
    let limits = || -> Result<CompileLimits, String> {
        let isolation = isolation.parse().map_err(|e| format!("{e}"))?;
        Ok(CompileLimits { isolation, wall: Duration::from_secs(20), ..CompileLimits::default() })
    };
    let mut args = vec![OsString::from("try")];
    args.extend(rest.iter().map(OsString::from));
    let ended = limits().and_then(|limits| {
        let exe = std::env::current_exe().map_err(|e| e.to_string())?;
        jail::run_program(&exe, &args, &libraries(), &limits, Path::new("/proc/self/exe"))
            .map_err(|e| e.to_string())
    });
    match ended {
        Ok(ended) => {
            println!("locked down");
            eprint!("{}", clean(&ended.said, 2_000));
            ended.exit.unwrap_or(128 + ended.signal.unwrap_or(0))
        }
        Err(e) => not_tried(e),
    }
}

/// The shared libraries of this process.
fn libraries() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut found: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..])))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Prints `pid=… port=… name=…`, then waits for the end of standard input.
fn victim() -> i32 {
    let name = format!("terrarium-victim-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name);
    let listens = || -> std::io::Result<_> {
        Ok((
            std::net::TcpListener::bind("127.0.0.1:0")?,
            std::os::unix::net::UnixListener::bind_addr(&address?)?,
        ))
    };
    match listens() {
        Ok((tcp, _abstract)) => {
            let port = tcp.local_addr().map_or(0, |address| address.port());
            println!("pid={} port={port} name={name}", std::process::id());
            let _ = std::io::stdout().flush();
            let _ = std::io::stdin().read(&mut [0]);
            WORKED
        }
        Err(e) => not_tried(e),
    }
}
