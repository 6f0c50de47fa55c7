//! The child's side: give everything up, then become the compiler.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use rustix::process::{Resource, Rlimit, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::Plan;

/// Begins the message of a child that a missing kernel feature stopped.
pub(super) const UNAVAILABLE: &str = "unavailable: ";

/// Instead of a plan: try the namespaces and end.
pub(super) const PROBE: &str = "--probe";

/// The rights that must be enforced. With the first version a compiler could
/// not move its own files between folders.
const REQUIRED: ABI = ABI::V2;
/// The newest rights that are enforced where the kernel knows them.
const WANTED: ABI = ABI::V6;

/// The role of a child: locks this process down as its plan (a file, named by
/// the argument after the role) says, and becomes the compiler; or, with
/// `--probe`, only tries the namespaces. Called by
/// [`crate::child::run_if_child`] alone, while there is one thread.
pub fn child_main() -> Result<(), String> {
    let argument = std::env::args_os().nth(3).ok_or("the jail takes one argument, its plan")?;
    if argument == PROBE {
        return leave_namespaces().map_err(|e| e.to_string());
    }
    let bytes = std::fs::read(argument).map_err(|e| format!("cannot read the plan: {e}"))?;
    let plan: Plan = serde_json::from_slice(&bytes).map_err(|e| format!("cannot read the plan: {e}"))?;
    match become_compiler(&plan)? {}
}

fn become_compiler(plan: &Plan) -> Result<std::convert::Infallible, String> {
    let context = |doing: &'static str| move |error: rustix::io::Errno| format!("{doing}: {error}");
    rustix::process::setsid().map_err(context("setsid"))?;
    // Optional: without it the other layers hold.
    let _ = leave_namespaces();
    // After the namespaces: a change of credentials clears it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(context("prctl"))?;
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if parent as u32 != plan.parent {
        return Err("the parent is gone".into());
    }
    close_inherited()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::chdir(&plan.job).map_err(context("chdir"))?;
    for (resource, limit) in [
        (Resource::As, plan.address_space),
        (Resource::Data, plan.data),
        (Resource::Fsize, plan.file_size),
        (Resource::Nofile, 256),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        rustix::process::setrlimit(resource, limit).map_err(context("setrlimit"))?;
    }
    // First a signal that names the cause, a second later the one that nothing survives.
    let cpu = Rlimit { current: Some(plan.cpu_seconds), maximum: Some(plan.cpu_seconds.saturating_add(1)) };
    rustix::process::setrlimit(Resource::Cpu, cpu).map_err(context("setrlimit"))?;
    rustix::thread::set_no_new_privs(true).map_err(context("no_new_privs"))?;
    require(plan, "Landlock", restrict_files(plan))?;
    require(plan, "seccomp", restrict_calls())?;

    let error = Command::new(&plan.compiler)
        .args(&plan.args)
        .env_clear()
        .envs(plan.environment.iter().map(|(name, value)| (name, value)))
        .exec();
    Err(format!("cannot start {}: {error}", plan.compiler.display()))
}

fn require(plan: &Plan, layer: &str, result: Result<(), String>) -> Result<(), String> {
    match result {
        Err(error) if !plan.allow_unjailed => Err(format!("{UNAVAILABLE}{layer} ({error})")),
        _ => Ok(()),
    }
}

/// Where the kernel allows it: no network, no IPC, and no rights of root, for
/// a user namespace of one's own has none over what lies outside of it.
fn leave_namespaces() -> std::io::Result<()> {
    let all = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: `unshare` takes flags and touches no memory of ours. A user
    // namespace needs a process of one thread, which this still is; if it
    // fails, nothing has changed. Exercised by every compile in the tests.
    let result = unsafe { libc::unshare(all) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Every descriptor but the standard three closes when the compiler starts.
fn close_inherited() -> Result<(), String> {
    // SAFETY: marks descriptors, touches no memory; with CLOEXEC nothing that
    // this process still uses is closed under it. Exercised by every compile.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    if result == 0 { Ok(()) } else { Err(format!("close_range: {}", std::io::Error::last_os_error())) }
}

/// Landlock: after this, the only files are those of the plan.
fn restrict_files(plan: &Plan) -> Result<(), String> {
    let text = |error: landlock::RulesetError| error.to_string();
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(REQUIRED))
        .map_err(text)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(WANTED)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(WANTED)))
        .map_err(text)?;
    let mut created = ruleset.create().map_err(text)?;
    let file_rights = AccessFs::from_file(WANTED);
    let write: BitFlags<AccessFs> = AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let mut allow = |path: &Path, rights: BitFlags<AccessFs>| -> Result<(), String> {
        // What is not there cannot be read: `/etc/ld.so.cache` is optional.
        let Ok(data) = std::fs::metadata(path) else {
            return Ok(());
        };
        let rights = if data.is_dir() { rights } else { rights & file_rights };
        let file = PathFd::new(path).map_err(|e| e.to_string())?;
        (&mut created).add_rule(PathBeneath::new(file, rights)).map(drop).map_err(text)
    };
    for path in &plan.read {
        allow(path, AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    for path in &plan.execute {
        allow(path, AccessFs::Execute | AccessFs::ReadFile)?;
    }
    for path in &plan.write {
        allow(path, write | AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    created.restrict_self().map(drop).map_err(text)
}

/// Two filters: the C library falls back from `clone3`, whose flags a filter
/// cannot see, to `clone`, whose flags it can; then the allow-list.
fn restrict_calls() -> Result<(), String> {
    for program in [without_clone3()?, allow_list()?] {
        seccompiler::apply_filter(&program).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn architecture() -> Result<TargetArch, String> {
    TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())
}

fn without_clone3() -> Result<BpfProgram, String> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    program(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    on_match: SeccompAction,
) -> Result<BpfProgram, String> {
    SeccompFilter::new(rules, otherwise, on_match, architecture()?)
        .and_then(BpfProgram::try_from)
        .map_err(|e| e.to_string())
}

/// What `rustc` and the linker call, seen with `strace` over successful and
/// failing compilations. What is missing fails with `EPERM`, for a compiler
/// that is killed cannot say what was wrong with the source.
fn allow_list() -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(CALLS_X86_64.iter().map(|call| (*call, Vec::new())));
    let one_of = |values: &[u64]| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let rule = |value: &u64| {
            SeccompRule::new(vec![SeccompCondition::new(
                1,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                *value,
            )?])
        };
        values.iter().map(rule).collect()
    };
    let namespaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP) as u64;
    let conditional = || -> Result<_, seccompiler::BackendError> {
        let plain_clone =
            SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(namespaces), 0)?;
        let set_name =
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?;
        Ok([
            (libc::SYS_clone, vec![SeccompRule::new(vec![plain_clone])?]),
            (libc::SYS_ioctl, one_of(&[libc::TCGETS, libc::FIOCLEX, libc::FIONBIO])?),
            (libc::SYS_prctl, vec![SeccompRule::new(vec![set_name])?]),
        ])
    };
    rules.extend(conditional().map_err(|e| e.to_string())?);
    program(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

const CALLS: &[i64] = &[
    // Let through here, so that the answer of the other filter counts: of two
    // filters that refuse, the later one chooses the error.
    libc::SYS_clone3,
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Calls that only the older tables have.
#[cfg(target_arch = "x86_64")]
const CALLS_X86_64: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_unlink,
    libc::SYS_vfork,
];
