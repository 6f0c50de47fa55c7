//! The processes of a run, as `/proc` shows them.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// What a child of the engine is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The compiler in its jail, or the launcher that becomes it.
    Compiler,
    /// Makes machine code.
    Codegen,
    /// Runs evaluations.
    Worker,
}

/// One process. Its number may be given to another one; together with its
/// start it is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    started: u64,
}

struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

/// `/proc/PID/stat`; the name, which may hold anything, ends at the last `)`.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn alive() -> Vec<(i32, Stat)> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).filter(|(_, stat)| !matches!(stat.state, 'Z' | 'X')).collect()
}

/// All that descend from `ancestor` and have not ended.
pub fn descendants(ancestor: u32) -> Vec<Process> {
    let all = alive();
    let mut family = vec![ancestor as i32];
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        for (pid, stat) in all.iter().filter(|(_, stat)| stat.parent == parent) {
            family.push(*pid);
            found.push(Process { pid: *pid, started: stat.started });
        }
        next += 1;
    }
    found
}

impl Process {
    /// Whether it has not ended. One that nobody has waited for counts as ended.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// What it does, if it is one of the engine's children.
    pub fn role(&self) -> Option<Role> {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", self.pid)).ok()?;
        let arguments: Vec<_> = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let program = Path::new(arguments.first()?.as_ref()).file_name()?.to_string_lossy().into_owned();
        if program == "rustc" {
            return Some(Role::Compiler);
        }
        match (arguments.get(1)?.as_ref(), arguments.get(2)?.as_ref()) {
            (terrarium_sandbox::child::MARK, "jail") => Some(Role::Compiler),
            (terrarium_sandbox::child::MARK, "codegen") => Some(Role::Codegen),
            (terrarium_sandbox::child::MARK, "worker") => Some(Role::Worker),
            _ => None,
        }
    }

    /// What the system says of it, for messages.
    pub fn describe(&self) -> String {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        format!("{} {}", self.pid, String::from_utf8_lossy(&arguments).replace('\0', " "))
    }

    /// Kills it. Says whether there was something to kill.
    pub fn kill(&self) -> bool {
        self.is_alive() && signal(self.pid as u32, Signal::KILL)
    }
}

/// Sends a signal to a process that this one started and has not waited for.
pub fn signal(pid: u32, signal: Signal) -> bool {
    Pid::from_raw(pid as i32).is_some_and(|pid| kill_process(pid, signal).is_ok())
}
