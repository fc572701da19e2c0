//! What is visible inside a sandbox, as a list: the same one is given to bubblewrap, carried out by [`super::build`], and
//! compared with the kernel's own list of mounts by the proof.
//!
//! From the host, read-only: `/usr`, the `/bin` and `/lib*` beside it, three files of `/etc` that programs need to be
//! loaded at all, lifeboat itself, and what the caller names. Made up: users, groups, hosts. Empty and in memory:
//! `/tmp`, `/dev/shm`. Writable from the host: the sandbox's own folder, nothing else. There is no `/run`, no `/var`,
//! no `/sys`, no other `/etc`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Layout, Owner, SandboxError};

/// Where lifeboat's own binary lies inside.
pub const AGENT: &str = "/lifeboat-agent";
/// The folder in the sandbox's own for its servers' sockets.
pub const SOCKETS: &str = "sockets";
/// How much `/tmp` and `/dev/shm` may hold each: they are memory. PostgreSQL's parallel queries use the latter.
pub const MEMORY_BYTES: u64 = 1 << 30;

/// The list; every `from` is canonical (no link on the way).
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    pub owner: Owner,
    /// The one writable folder; the same path inside and outside.
    pub dir: PathBuf,
    pub read_only: Vec<Bind>,
    /// `at` becomes a symbolic link to `to`.
    pub links: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bind {
    pub from: PathBuf,
    pub at: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Link {
    pub to: PathBuf,
    pub at: PathBuf,
}

impl Plan {
    /// Draws up the list; `etc` is a folder filled by [`made_up_etc`].
    ///
    /// # Errors
    /// [`SandboxError::BadLayout`] for a path that is not there, or that would open a way out.
    pub fn of(layout: &Layout, owner: Owner, etc: &Path) -> Result<Self, SandboxError> {
        if layout.dir.is_symlink() {
            return Err(SandboxError::BadLayout { path: layout.dir.clone(), why: "it is a link" });
        }
        let dir = canonical(&layout.dir)?;
        refuse_unless_private(&dir)?;
        let mut plan = Self { owner, dir, read_only: Vec::new(), links: Vec::new() };
        for name in ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            plan.system(Path::new(name));
        }
        for name in ["/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives"] {
            plan.system(Path::new(name));
        }
        for name in MADE_UP {
            plan.read_only.push(Bind { from: etc.join(name), at: Path::new("/etc").join(name) });
        }
        plan.read_only.push(Bind { from: canonical(&layout.agent)?, at: AGENT.into() });
        for path in &layout.read_only {
            plan.extra(path)?;
        }
        Ok(plan)
    }

    /// A part of the system as it is on the host: a link stays a link, what is not there is left out.
    fn system(&mut self, at: &Path) {
        if let Ok(to) = fs::read_link(at) {
            self.links.push(Link { to, at: at.to_owned() });
        } else if at.exists() {
            self.read_only.push(Bind { from: at.to_owned(), at: at.to_owned() });
        }
    }

    fn extra(&mut self, path: &Path) -> Result<(), SandboxError> {
        let from = canonical(path)?;
        // Asked for by the path that programs inside will use, which may be a link on the host.
        let at = std::path::absolute(path).unwrap_or_else(|_| from.clone());
        let bad = |why| Err(SandboxError::BadLayout { path: path.to_owned(), why });
        for path in [&from, &at] {
            if FORBIDDEN.iter().any(|forbidden| path.starts_with(forbidden) || Path::new(forbidden).starts_with(path)) {
                return bad("it would show the host's devices, settings, processes or sockets inside");
            }
            if path.starts_with(&self.dir) {
                return bad("it lies in the sandbox's own folder, which is writable");
            }
        }
        self.read_only.push(Bind { from, at });
        Ok(())
    }

    /// Every place where something may be mounted inside, and whether it may be written to. The rest is a read-only, empty root.
    #[must_use]
    pub fn mounts(&self) -> Vec<(PathBuf, bool)> {
        let fixed = [("/", false), ("/tmp", true), ("/dev/shm", true), ("/proc", true), ("/dev", false)];
        let devices = DEVICES.iter().map(|name| (Path::new("/dev").join(name), true));
        fixed
            .iter()
            .map(|(path, writable)| (PathBuf::from(path), *writable))
            .chain(devices)
            .chain([(PathBuf::from("/dev/pts"), true)])
            .chain(self.read_only.iter().map(|bind| (bind.at.clone(), false)))
            .chain([(self.dir.clone(), true)])
            .collect()
    }
}

/// The devices that hold nothing.
pub const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Never shown, neither whole nor in part.
const FORBIDDEN: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/var/run", "/etc"];

fn canonical(path: &Path) -> Result<PathBuf, SandboxError> {
    fs::canonicalize(path).map_err(|source| SandboxError::Io { what: path.to_owned(), source })
}

/// The writable folder must be somebody's own, not a place that the system or other programs live in.
fn refuse_unless_private(dir: &Path) -> Result<(), SandboxError> {
    let shared = ["/", "/tmp", "/var", "/var/tmp", "/var/lib", "/home", "/root", "/srv", "/opt", "/mnt", "/media"];
    let system = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/boot", "/proc", "/sys", "/dev"];
    if shared.iter().any(|path| dir == Path::new(path)) || system.iter().any(|path| dir.starts_with(path)) {
        let why = "it is not a folder of the sandbox's own";
        return Err(SandboxError::BadLayout { path: dir.to_owned(), why });
    }
    Ok(())
}

const MADE_UP: [&str; 4] = ["passwd", "group", "hosts", "nsswitch.conf"];

/// Writes the files of `/etc` that a sandbox sees instead of the host's: two users, one host, no name service.
/// They may be deleted once the sandbox runs; it holds on to them.
///
/// # Errors
/// When they cannot be written.
pub fn made_up_etc(owner: Owner, home: &Path) -> io::Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let etc = tempfile::Builder::new().prefix("lifeboat-etc-").tempdir()?;
    let Owner { uid, gid } = owner;
    let home = home.display();
    let texts = [
        format!("root:x:0:0:root:/:/usr/sbin/nologin\nsandbox:x:{uid}:{gid}:sandbox:{home}:/bin/sh\n"),
        format!("root:x:0:\nsandbox:x:{gid}:\n"),
        "127.0.0.1 localhost sandbox\n::1 localhost\n".to_owned(),
        "passwd: files\ngroup: files\nhosts: files\n".to_owned(),
    ];
    for (name, text) in MADE_UP.iter().zip(texts) {
        let path = etc.path().join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444))?;
    }
    fs::set_permissions(etc.path(), fs::Permissions::from_mode(0o755))?;
    Ok(etc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_with(read_only: &[&str]) -> Result<Plan, SandboxError> {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            read_only: read_only.iter().map(PathBuf::from).collect(),
            agent: "/usr/bin/true".into(),
            ..Layout::new(dir.path()).unwrap()
        };
        Plan::of(&layout, Owner { uid: 1, gid: 1 }, Path::new("/nowhere"))
    }

    #[test]
    fn the_hosts_sockets_devices_and_settings_cannot_be_asked_for() {
        for path in ["/", "/run", "/var/run", "/var", "/proc", "/dev", "/dev/shm", "/sys", "/etc", "/etc/ssl"] {
            assert!(matches!(plan_with(&[path]), Err(SandboxError::BadLayout { .. })), "{path}");
        }
    }

    #[test]
    fn the_writable_folder_is_never_a_shared_one() {
        for dir in ["/", "/tmp", "/var/lib", "/usr/lib", "/etc", "/dev/shm", "/proc/self"] {
            let layout = Layout { agent: "/usr/bin/true".into(), ..Layout::new(Path::new(dir)).unwrap() };
            let plan = Plan::of(&layout, Owner { uid: 1, gid: 1 }, Path::new("/nowhere"));
            assert!(matches!(plan, Err(SandboxError::BadLayout { .. })), "{dir}");
        }
    }

    #[test]
    fn only_the_folder_memory_processes_and_empty_devices_are_writable() {
        let plan = plan_with(&["/srv"]).unwrap();
        let writable: Vec<_> = plan.mounts().into_iter().filter(|(_, w)| *w).map(|(path, _)| path).collect();
        let (devices, rest): (Vec<_>, Vec<_>) =
            writable.iter().partition(|path| path.starts_with("/dev") && **path != Path::new("/dev/shm"));
        assert_eq!(devices.len(), DEVICES.len() + 1);
        let expected = ["/tmp", "/dev/shm", "/proc"].map(PathBuf::from);
        assert_eq!(rest.iter().filter(|path| !expected.contains(path)).count(), 1);
    }
}
