//! The system calls that are left to a locked-down process. Any other kills it.
//!
//! Seen with `strace -f` over training, calls, traps, stack exhaustion and
//! code generation; every entry says what needs it, and arguments are checked
//! where a call can do more than that.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

use super::Role;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls whose arguments can do no harm.
const CALLS: &[(i64, &str)] = &[
    (libc::SYS_munmap, "the allocator gives large blocks back"),
    (libc::SYS_mremap, "the allocator grows large blocks; protection stays as it was"),
    (libc::SYS_brk, "the allocator's heap"),
    (libc::SYS_sched_yield, "threads of kernels that wait for a moment"),
    (libc::SYS_rt_sigreturn, "the end of wasmtime's trap handler"),
    (libc::SYS_rt_sigprocmask, "abort() and the end of a thread"),
    (libc::SYS_rt_sigaction, "abort() and a handler that steps aside for a fault that is not wasm's"),
    (libc::SYS_sigaltstack, "the end of a thread, and wasmtime's check of a thread's handler stack"),
    (libc::SYS_clock_gettime, "clocks that the vDSO cannot read"),
    (libc::SYS_getrandom, "seeds of hash maps"),
    (libc::SYS_gettid, "abort()"),
    (libc::SYS_getpid, "abort()"),
    (libc::SYS_restart_syscall, "a wait that a stopped process takes up again"),
    (libc::SYS_exit, "the end of a thread"),
    (libc::SYS_exit_group, "the end of the process"),
];

/// Late questions of code generation.
const CODEGEN: &[(i64, &str)] = &[(libc::SYS_sched_getaffinity, "rayon counts processors once more")];

/// Calls whose arguments are checked, and why they are needed.
const CHECKED: &[(i64, &str)] = &[
    (libc::SYS_recvfrom, "the channel; descriptors 0 to 2 only"),
    (libc::SYS_write, "the channel and the last words of a panic; descriptors 0 to 2 only"),
    (libc::SYS_writev, "the last words of a panic; descriptors 0 to 2 only"),
    (libc::SYS_sendto, "the channel; no address"),
    (libc::SYS_close, "the end of the channel; descriptors 0 to 2 only"),
    (libc::SYS_mmap, "memory; never executable"),
    (libc::SYS_mprotect, "memory of guests grows; never executable"),
    (libc::SYS_madvise, "memory of guests is emptied: DONTNEED, FREE and the huge-page hints"),
    (libc::SYS_futex, "locks between threads: wait, wake and their bit-set forms"),
    (libc::SYS_tgkill, "abort() raises SIGABRT in this process"),
];

/// How many calls a role has.
pub(super) fn count(role: Role) -> usize {
    let more = if role == Role::Codegen { CODEGEN.len() } else { 0 };
    CALLS.len() + CHECKED.len() + more
}

/// Installs the filter for all threads.
pub(super) fn apply(role: Role) -> Result<(), String> {
    let program = program(role).map_err(|e| e.to_string())?;
    apply_filter_all_threads(&program).map_err(|e| e.to_string())
}

fn dword(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
}

/// One rule for each of the values that an argument may have.
fn one_of(argument: u8, values: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    values
        .iter()
        .map(|value| SeccompRule::new(vec![dword(argument, SeccompCmpOp::Eq, u64::from(*value as u32))?]))
        .collect()
}

fn checked(call: i64) -> Result<Vec<SeccompRule>, BackendError> {
    let standard = || dword(0, SeccompCmpOp::Le, 2);
    Ok(match call {
        libc::SYS_sendto => {
            let nowhere = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
            vec![SeccompRule::new(vec![standard()?, nowhere])?]
        }
        libc::SYS_mmap | libc::SYS_mprotect => {
            let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
            vec![SeccompRule::new(vec![dword(2, executable, 0)?])?]
        }
        libc::SYS_madvise => {
            one_of(2, &[libc::MADV_DONTNEED, libc::MADV_FREE, libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE])?
        }
        libc::SYS_futex => {
            let private = libc::FUTEX_PRIVATE_FLAG;
            let clock = libc::FUTEX_CLOCK_REALTIME;
            let wait = libc::FUTEX_WAIT_BITSET;
            // glibc joins a thread with the one form that is not private.
            one_of(
                1,
                &[
                    libc::FUTEX_WAIT | private,
                    libc::FUTEX_WAKE,
                    libc::FUTEX_WAKE | private,
                    wait | private,
                    wait | private | clock,
                    wait | clock,
                    libc::FUTEX_WAKE_BITSET | private,
                    libc::FUTEX_REQUEUE | private,
                    libc::FUTEX_CMP_REQUEUE | private,
                ],
            )?
        }
        libc::SYS_tgkill => {
            let own = dword(0, SeccompCmpOp::Eq, u64::from(std::process::id()))?;
            let abort = dword(2, SeccompCmpOp::Eq, libc::SIGABRT as u64)?;
            vec![SeccompRule::new(vec![own, abort])?]
        }
        _ => vec![SeccompRule::new(vec![standard()?])?],
    })
}

fn program(role: Role) -> Result<BpfProgram, BackendError> {
    let mut rules: Rules = CALLS.iter().map(|(call, _)| (*call, Vec::new())).collect();
    if role == Role::Codegen {
        rules.extend(CODEGEN.iter().map(|(call, _)| (*call, Vec::new())));
    }
    for (call, _) in CHECKED {
        rules.insert(*call, checked(*call)?);
    }
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_listed_once_and_says_what_needs_it() {
        let mut all: Vec<_> = CALLS.iter().chain(CODEGEN).chain(CHECKED).collect();
        assert!(all.iter().all(|(_, reason)| reason.len() > 5));
        all.sort();
        all.dedup_by_key(|(call, _)| *call);
        assert_eq!(all.len(), count(Role::Codegen));
        assert!(program(Role::Worker).is_ok() && program(Role::Codegen).is_ok());
    }
}
