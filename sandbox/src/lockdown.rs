//! What a worker or a compiling process gives up before it touches anything
//! that a candidate wrote.
//!
//! Order matters. Landlock binds the calling thread and those it starts, so
//! [`Lockdown::files`] comes before any thread; the system-call filter binds
//! all threads that exist, so [`Lockdown::calls`] comes last.

use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};
use std::collections::BTreeMap;

/// A layer could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("the {layer} layer could not be put in place: {reason}")]
pub struct LockdownError {
    layer: &'static str,
    reason: String,
}

fn failed(layer: &'static str) -> impl Fn(String) -> LockdownError {
    move |reason| LockdownError { layer, reason }
}

/// How much is left to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs candidates: may not make memory executable any more.
    Worker,
    /// Compiles to machine code into a buffer: never executes it.
    Codegen,
}

/// Dies with its parent, in a session of its own, with no core dumps and few
/// descriptors.
pub fn process(role: Role) -> Result<(), LockdownError> {
    let fail = failed("process");
    // A process that already leads a group cannot start a session; it is a
    // leader then, which is what is needed.
    let _ = rustix::process::setsid();
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| fail(e.to_string()))?;
    close_inherited().map_err(|e| fail(e.to_string()))?;
    let limit = |resource, value| {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
            .map_err(|e| fail(format!("{resource:?}: {e}")))
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, 64)?;
    if role == Role::Codegen {
        limit(Resource::As, 6 << 30)?;
        // One second between the two, so that the end shows as SIGXCPU.
        setrlimit(Resource::Cpu, Rlimit { current: Some(60), maximum: Some(61) })
            .map_err(|e| fail(e.to_string()))?;
    }
    Ok(())
}

/// Closes all descriptors but the three standard ones.
fn close_inherited() -> std::io::Result<()> {
    // SAFETY: close_range takes plain integers; nothing in this process holds
    // a descriptor above 2 yet (this runs first in `main` of a child).
    let r = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// No file can be opened, created, executed or changed any more, no TCP port
/// bound or connected, no signal or abstract socket sent out of the process.
pub fn files() -> Result<(), LockdownError> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
    };
    let fail = failed("Landlock");
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(|e| fail(e.to_string()))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))
        .map_err(|e| fail(e.to_string()))?
        .handle_access(AccessNet::from_all(ABI::V6))
        .map_err(|e| fail(e.to_string()))?
        .scope(Scope::from_all(ABI::V6))
        .map_err(|e| fail(e.to_string()))?
        .create()
        .map_err(|e| fail(e.to_string()))?
        .restrict_self()
        .map_err(|e| fail(e.to_string()))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(fail("the kernel does not enforce it".into()));
    }
    Ok(())
}

/// Kills the process at the first system call that its role does not need, and
/// allows no file to grow.
/// Applies to all threads.
pub fn calls(role: Role) -> Result<(), LockdownError> {
    let fail = failed("seccomp");
    // Not earlier: loading a component writes its memory image to a memory file.
    setrlimit(Resource::Fsize, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|e| fail(e.to_string()))?;
    let program = filter(role).map_err(|e| fail(e.to_string()))?;
    apply_filter_all_threads(&program).map_err(|e| fail(e.to_string()))
}

fn filter(role: Role) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_sigaltstack,
        libc::SYS_clock_gettime,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect();
    // Memory may be mapped and protected, but never made executable.
    let not_executable = || {
        SeccompRule::new(vec![SeccompCondition::new(
            2,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64),
            0,
        )?])
    };
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    // abort() raises SIGABRT in this thread: a crash is told from an attack.
    rules.insert(
        libc::SYS_tgkill,
        vec![SeccompRule::new(vec![SeccompCondition::new(
            2,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            libc::SIGABRT as u64,
        )?])?],
    );
    if role == Role::Codegen {
        // rayon and the allocator ask for these once, late.
        rules.insert(libc::SYS_sched_getaffinity, Vec::new());
    }
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}
