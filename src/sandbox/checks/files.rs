//! What can be seen and written.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sandbox::mounts::{self, Mount};
use crate::sandbox::proof::{Outside, ProofCheck};

pub fn checks(outside: &Outside) -> Vec<ProofCheck> {
    vec![visible(outside), writes(outside), own_folder(outside), host_paths(outside), setuid()]
}

/// The kernel's list of mounts against the plan's. The root is empty memory, so what is not mounted is not there.
fn visible(outside: &Outside) -> ProofCheck {
    let name = "only what was planned is mounted";
    let listed = match mounts::list(Path::new("/proc")) {
        Ok(listed) => listed,
        Err(error) => return ProofCheck::new(name, false, error.to_string()),
    };
    let root_is_memory = listed.iter().any(|mount| mount.at == Path::new("/") && mount.kind == "tmpfs");
    let stray: Vec<_> =
        listed.iter().filter(|mount| !planned(mount, outside)).map(|mount| mount.at.display().to_string()).collect();
    let detail = match (stray.first(), root_is_memory) {
        (Some(first), _) => format!("{} mounts too many or too writable, such as {first}", stray.len()),
        (None, false) => "the root is not in memory".to_owned(),
        (None, true) => format!("{} mounts", listed.len()),
    };
    ProofCheck::new(name, stray.is_empty() && root_is_memory, detail)
}

/// The nearest planned place decides: at it or below it, nothing may be more writable than it.
fn planned(mount: &Mount, outside: &Outside) -> bool {
    let read_only = mount.options.iter().any(|option| option == "ro");
    let is_root = mount.at == Path::new("/");
    let above = outside.mounts.iter().filter(|(at, _)| mount.at.starts_with(at) && (is_root || at != Path::new("/")));
    above.max_by_key(|(at, _)| at.components().count()).is_some_and(|(_, writable)| read_only || *writable)
}

/// Tries to make a file in every place that must not allow it.
fn writes(outside: &Outside) -> ProofCheck {
    let fixed =
        ["/", "/dev", "/etc", "/usr", "/usr/bin", "/var", "/run", "/proc", "/proc/sys/kernel", "/root", "/home"];
    let planned = outside.mounts.iter().filter(|(_, writable)| !writable).map(|(at, _)| at.clone());
    let above = outside.dir.ancestors().skip(1).filter(|path| *path != Path::new("/tmp")).map(Path::to_owned);
    let places: Vec<PathBuf> = fixed.iter().map(PathBuf::from).chain(planned).chain(above).collect();
    let in_memory = |path: &Path| path.starts_with("/tmp") || path.starts_with("/dev/shm");
    let written: Vec<_> = places.iter().filter(|path| !in_memory(path)).filter(|path| can_write(path)).collect();
    let detail = match written.first() {
        Some(path) => format!("{} can be written to", path.display()),
        None => format!("{} places refused", places.len()),
    };
    ProofCheck::new("no writing outside", written.is_empty(), detail)
}

fn can_write(path: &Path) -> bool {
    if path.is_file() {
        return fs::OpenOptions::new().append(true).open(path).is_ok();
    }
    let trial = path.join(format!(".lifeboat-trial-{}", std::process::id()));
    let made = fs::File::create_new(&trial).is_ok();
    if made {
        let _ = fs::remove_file(&trial);
    }
    made
}

fn own_folder(outside: &Outside) -> ProofCheck {
    let works = can_write(&outside.dir);
    ProofCheck::new("its own folder can be written to", works, outside.dir.display().to_string())
}

/// Where hosts keep sockets, homes, secrets and name servers. A folder on the way to a planned place may be there.
fn host_paths(outside: &Outside) -> ProofCheck {
    const PATHS: [&str; 12] = [
        "/run",
        "/var",
        "/var/run",
        "/var/run/postgresql",
        "/root",
        "/home",
        "/sys",
        "/boot",
        "/etc/shadow",
        "/etc/resolv.conf",
        "/etc/ssl",
        "/etc/postgresql",
    ];
    let on_the_way = |path: &Path| outside.mounts.iter().any(|(at, _)| at.starts_with(path));
    let there: Vec<_> =
        PATHS.into_iter().filter(|path| !on_the_way(Path::new(path)) && fs::symlink_metadata(path).is_ok()).collect();
    let detail = if there.is_empty() { "all absent".to_owned() } else { there.join(" ") };
    ProofCheck::new("the host's places are absent", there.is_empty(), detail)
}

/// Every mount that could hold the host's programs or our data ignores set-user-id bits.
fn setuid() -> ProofCheck {
    let listed = mounts::list(Path::new("/proc")).unwrap_or_default();
    let honours = |mount: &&Mount| !mount.options.iter().any(|option| option == "nosuid");
    let loose: Vec<_> = listed.iter().filter(honours).map(|mount| mount.at.display().to_string()).collect();
    ProofCheck::new("no set-user-id programs", !listed.is_empty() && loose.is_empty(), loose.join(" "))
}
