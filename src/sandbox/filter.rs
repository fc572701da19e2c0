//! The system calls that nothing inside may make (seccomp(2)): those that reach past namespaces, and those that only
//! widen what a flaw in the kernel could be reached by. Neither PostgreSQL nor Odoo uses them.
//!
//! Namespaces do not cover everything: `AF_VSOCK` talks to the hypervisor from any network namespace, and the kernel's
//! keyrings are inherited. A crash would start the host's core-dump handler, as root, on hostile memory: a limit of 1 byte
//! is the one value that forbids this even where core dumps are piped (core(5); Linux `fs/coredump.c`), so it may not be
//! changed, not even to 0. The filter is a list of refusals (`EPERM`), so a new PostgreSQL keeps running.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

const REFUSED: &[i64] = &[
    // keys of whoever started lifeboat
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // other processes of the same user: the agent
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // namespaces and mounts
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // a file by its number on the disk
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // large parts of the kernel
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    // the machine's
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

/// Local, IPv4, IPv6, and netlink (the C library lists interfaces with it).
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// The family's own, the local one's number for that, TCP and UDP; others make the kernel load modules for whoever asks.
const PROTOCOLS: [i32; 4] = [0, 1, libc::IPPROTO_TCP, libc::IPPROTO_UDP];
/// Typing into a terminal, moving the console's selection, loading a line discipline.
const TERMINAL_REQUESTS: [u32; 3] = [0x5412, 0x541C, 0x5423];
const RESOURCE_CORE: u64 = 4;

/// x86-64 kernels may know a second numbering of the same calls (x32).
#[cfg(target_arch = "x86_64")]
const NUMBERINGS: [i64; 2] = [0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
const NUMBERINGS: [i64; 1] = [0];

/// Puts the filter on this thread and all it will start, for good.
///
/// # Errors
/// When the kernel or the processor is not known to the filter.
pub fn apply() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(&program()?)
}

fn program() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for numbering in NUMBERINGS {
        rules.extend(REFUSED.iter().map(|call| (call | numbering, Vec::new())));
        for (call, conditions) in conditional()? {
            rules.entry(call | numbering).or_default().push(SeccompRule::new(conditions)?);
        }
    }
    let errno = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

/// Calls that are refused when all of their conditions hold.
fn conditional() -> Result<Vec<(i64, Vec<SeccompCondition>)>, BackendError> {
    let none_of = |argument, allowed: &[i32]| {
        let not = |value: &i32| condition(argument, SeccompCmpOp::Ne, *value as u64);
        allowed.iter().map(not).collect::<Result<Vec<_>, _>>()
    };
    let mut calls = vec![
        (libc::SYS_socket, none_of(0, &FAMILIES)?),
        (libc::SYS_socket, none_of(2, &PROTOCOLS)?),
        (libc::SYS_socketpair, none_of(0, &[libc::AF_UNIX])?),
        (libc::SYS_setrlimit, vec![condition(0, SeccompCmpOp::Eq, RESOURCE_CORE)?]),
        // prlimit64(pid, resource, new, old): asking stays allowed
        (
            libc::SYS_prlimit64,
            vec![
                condition(1, SeccompCmpOp::Eq, RESOURCE_CORE)?,
                SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?,
            ],
        ),
    ];
    for request in TERMINAL_REQUESTS {
        calls.push((libc::SYS_ioctl, vec![condition(1, SeccompCmpOp::Eq, request.into())?]));
    }
    Ok(calls)
}

/// On the lower half of an argument, which is all that the kernel looks at where an `int` is meant.
fn condition(argument: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filtered_thread_reaches_neither_hypervisor_nor_keys_nor_mounts() {
        use rustix::net::{AddressFamily, SocketType, socket};
        let filtered = std::thread::spawn(|| {
            apply().unwrap();
            let vsock = socket(AddressFamily::from_raw(40), SocketType::STREAM, None).unwrap_err();
            let packet = socket(AddressFamily::PACKET, SocketType::RAW, None).unwrap_err();
            let sctp = rustix::net::ipproto::SCTP;
            let sctp = socket(AddressFamily::INET, SocketType::STREAM, Some(sctp)).unwrap_err();
            assert_eq!(sctp, rustix::io::Errno::PERM);
            let chroot = rustix::process::chroot("/").unwrap_err();
            assert_eq!([vsock, packet, chroot], [rustix::io::Errno::PERM; 3]);
            socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        });
        filtered.join().unwrap();
    }

    #[test]
    fn a_filtered_thread_reads_its_core_limit_and_cannot_change_it() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let filtered = std::thread::spawn(|| {
            apply().unwrap();
            let now = getrlimit(Resource::Core);
            let lower = Rlimit { current: Some(0), maximum: now.maximum };
            assert_eq!(setrlimit(Resource::Core, lower).unwrap_err(), rustix::io::Errno::PERM);
            setrlimit(Resource::Nofile, getrlimit(Resource::Nofile)).unwrap();
        });
        filtered.join().unwrap();
    }
}
