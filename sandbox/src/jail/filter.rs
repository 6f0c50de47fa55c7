//! The system calls that are left to the compiler and the linker. Any other
//! fails with `EPERM`: a compiler that is killed cannot say what was wrong with
//! the source.
//!
//! Seen with `strace -f` over compilations that succeed and that fail, with
//! the older and newer forms of the same calls that other C libraries and
//! kernels use. Which files the calls reach is for Landlock and the root folder
//! to say.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls whose arguments can do no harm, by what needs them.
const CALLS: &[(&str, &[i64])] = &[
    ("to become the compiler, and the compiler its linker", &[libc::SYS_execve]),
    (
        "memory; the loader maps libraries executable",
        &[
            libc::SYS_brk,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_mremap,
            libc::SYS_munmap,
            libc::SYS_madvise,
            libc::SYS_msync,
        ],
    ),
    (
        "to read files and folders",
        &[
            libc::SYS_openat,
            libc::SYS_read,
            libc::SYS_readv,
            libc::SYS_pread64,
            libc::SYS_lseek,
            libc::SYS_getdents64,
            libc::SYS_readlinkat,
            libc::SYS_getcwd,
        ],
    ),
    (
        "to ask what a file is, and how much room there is",
        &[
            libc::SYS_fstat,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_statfs,
            libc::SYS_fstatfs,
        ],
    ),
    (
        "to write objects and the module, and to clean up",
        &[
            libc::SYS_write,
            libc::SYS_writev,
            libc::SYS_pwrite64,
            libc::SYS_ftruncate,
            libc::SYS_fallocate,
            libc::SYS_fchmod,
            libc::SYS_mkdirat,
            libc::SYS_renameat2,
            libc::SYS_unlinkat,
        ],
    ),
    (
        "descriptors, pipes to the linker and the jobserver",
        &[libc::SYS_close, libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_ppoll],
    ),
    (
        "threads, and the wait for the linker",
        &[
            libc::SYS_futex,
            libc::SYS_set_robust_list,
            libc::SYS_set_tid_address,
            libc::SYS_rseq,
            libc::SYS_sched_yield,
            libc::SYS_sched_getaffinity,
            libc::SYS_wait4,
            libc::SYS_waitid,
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_restart_syscall,
            // Let through here, so that the answer of the other filter counts: of
            // two filters that refuse, the later one chooses the error.
            libc::SYS_clone3,
        ],
    ),
    (
        "signal handlers of the compiler's crash report",
        &[libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack],
    ),
    (
        "clocks and random numbers",
        &[libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_getrandom],
    ),
    (
        "questions about itself and the machine's size",
        &[
            libc::SYS_getpid,
            libc::SYS_getppid,
            libc::SYS_gettid,
            libc::SYS_getuid,
            libc::SYS_geteuid,
            libc::SYS_getgid,
            libc::SYS_getegid,
            libc::SYS_getrusage,
            libc::SYS_uname,
        ],
    ),
];

/// Older forms of the same, which only this processor's table has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
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
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Calls whose arguments are checked.
const CHECKED: &[(i64, &str)] = &[
    (libc::SYS_clone, "threads and the linker's process; no new namespace"),
    (libc::SYS_fcntl, "flags and locks; never who gets a signal"),
    (libc::SYS_ioctl, "is it a terminal; close on exec; non-blocking"),
    (libc::SYS_prctl, "the name of a thread"),
    (libc::SYS_prlimit64, "its own limits, which only get lower"),
    (libc::SYS_tgkill, "abort() of the first process"),
];

/// How many calls are let through.
pub(super) fn count() -> usize {
    // One less: `clone3` is let through to fail.
    CALLS.iter().map(|(_, calls)| calls.len()).sum::<usize>() + OLDER.len() + CHECKED.len() - 1
}

/// Two filters: the C library falls back from `clone3`, whose flags a filter
/// cannot see, to `clone`, whose flags it can; then the allow-list.
pub(super) fn apply() -> Result<(), String> {
    for program in [without_clone3(), allow_list()] {
        seccompiler::apply_filter_all_threads(&program.map_err(|e| e.to_string())?)
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn without_clone3() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    program(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

fn allow_list() -> Result<BpfProgram, BackendError> {
    let mut rules: Rules =
        CALLS.iter().flat_map(|(_, calls)| *calls).map(|call| (*call, Vec::new())).collect();
    rules.extend(OLDER.iter().map(|call| (*call, Vec::new())));
    for (call, _) in CHECKED {
        rules.insert(*call, checked(*call)?);
    }
    program(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn program(
    rules: Rules,
    otherwise: SeccompAction,
    on_match: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    BpfProgram::try_from(SeccompFilter::new(rules, otherwise, on_match, architecture)?)
}

/// One rule for each of the values that an argument may have.
fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    let equal = |value: &u64| {
        SeccompRule::new(vec![SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            *value,
        )?])
    };
    values.iter().map(equal).collect()
}

fn checked(call: i64) -> Result<Vec<SeccompRule>, BackendError> {
    match call {
        libc::SYS_clone => {
            let namespaces = (libc::CLONE_NEWNS
                | libc::CLONE_NEWUSER
                | libc::CLONE_NEWPID
                | libc::CLONE_NEWNET
                | libc::CLONE_NEWIPC
                | libc::CLONE_NEWUTS
                | libc::CLONE_NEWCGROUP) as u64;
            let plain =
                SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(namespaces), 0)?;
            Ok(vec![SeccompRule::new(vec![plain])?])
        }
        libc::SYS_fcntl => one_of(
            1,
            &[
                libc::F_DUPFD,
                libc::F_DUPFD_CLOEXEC,
                libc::F_GETFD,
                libc::F_SETFD,
                libc::F_GETFL,
                libc::F_SETFL,
                libc::F_GETLK,
                libc::F_SETLK,
                libc::F_SETLKW,
                libc::F_OFD_SETLK,
            ]
            .map(|command| command as u64),
        ),
        libc::SYS_ioctl => one_of(1, &[libc::TCGETS, libc::FIOCLEX, libc::FIONBIO]),
        libc::SYS_prctl => one_of(0, &[libc::PR_SET_NAME as u64]),
        libc::SYS_prlimit64 => one_of(0, &[0]),
        // Only the compiler itself: its number is this process's.
        _ => one_of(0, &[u64::from(std::process::id())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_listed_once() {
        let mut all: Vec<i64> = CALLS.iter().flat_map(|(_, calls)| *calls).copied().collect();
        all.extend(OLDER);
        all.extend(CHECKED.iter().map(|(call, _)| call));
        let listed = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), listed);
        assert_eq!(count(), listed - 1);
        assert!(allow_list().is_ok() && without_clone3().is_ok());
    }
}
