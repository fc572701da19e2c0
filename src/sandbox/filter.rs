//! The system calls that nothing inside may make (seccomp(2)): those that reach past namespaces, and those that only
//! widen what a flaw in the kernel could be reached by. Neither PostgreSQL nor Odoo uses them.
//!
//! Namespaces do not cover everything: `AF_VSOCK` talks to the hypervisor from any network namespace, and the kernel's
//! keyrings are inherited. The filter is a list of refusals (`EPERM`), so a new PostgreSQL keeps running.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
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
    let other_family = FAMILIES
        .iter()
        .map(|family| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *family as u64))
        .collect::<Result<Vec<_>, _>>()?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for numbering in NUMBERINGS {
        rules.extend(REFUSED.iter().map(|call| (call | numbering, Vec::new())));
        rules.insert(libc::SYS_socket | numbering, vec![SeccompRule::new(other_family.clone())?]);
    }
    let errno = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
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
            let chroot = rustix::process::chroot("/").unwrap_err();
            assert_eq!([vsock, packet, chroot], [rustix::io::Errno::PERM; 3]);
            socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        });
        filtered.join().unwrap();
    }
}
