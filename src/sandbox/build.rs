//! Furnishing new namespaces without bubblewrap: run as process 1 of what `unshare` made, with the capabilities that this gives
//! over the new namespaces only, which are all given up before the agent begins.
//!
//! The steps are bubblewrap's: an empty root in memory; the host's root moved aside; what the [`Plan`] lists bound from there;
//! the host's root let go of; then read-only, loopback up, no further user namespaces, no capabilities, `exec`.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::launch::{COMMAND, SERVE, environment};
use super::plan::{AGENT, DEVICES, MEMORY_BYTES, Plan};

/// A step that did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} for the sandbox")]
pub struct BuildError {
    pub step: String,
    pub source: io::Error,
}

type Step<T = ()> = Result<T, BuildError>;

fn step<T, E: Into<io::Error>>(what: impl Into<String>, result: Result<T, E>) -> Step<T> {
    result.map_err(|error| BuildError { step: what.into(), source: error.into() })
}

/// Furnishes the namespaces this process is alone in, and becomes the agent. Returns only when that failed.
///
/// # Errors
/// The step that failed; the half-built namespaces end with this process.
pub fn build(plan_text: &str) -> Result<std::convert::Infallible, BuildError> {
    let plan: Plan = step("read the plan", serde_json::from_str(plan_text))?;
    step("begin a session", rustix::process::setsid())?;
    step("name the host", rustix::system::sethostname(b"sandbox"))?;
    step("bring up loopback", super::loopback::up())?;
    let root = move_host_aside()?;
    furnish(&plan, &root)?;
    enter(&root)?;
    step("forbid user namespaces", fs::write("/proc/sys/user/max_user_namespaces", "0"))?;
    give_up_capabilities()?;
    step("enter the folder", std::env::set_current_dir(&plan.dir))?;
    let error = Command::new(AGENT).args([COMMAND, SERVE]).env_clear().envs(environment(&plan.dir)).exec();
    Err(BuildError { step: "start the agent".into(), source: error })
}

/// The host's root while it is still needed, and the new one.
const HOST: &str = "/host";
const ROOT: &str = "/root";
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Makes an empty root in memory, with the host's under [`HOST`]; `/tmp` is covered only until then.
fn move_host_aside() -> Step<PathBuf> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("keep mounts private", rustix::mount::mount_change("/", private))?;
    tmpfs(Path::new("/tmp"), "mode=755")?;
    for name in [HOST, ROOT] {
        step("make a folder", fs::create_dir(format!("/tmp{name}")))?;
    }
    step("move the host aside", rustix::process::pivot_root("/tmp", format!("/tmp{HOST}")))?;
    step("enter the new root", std::env::set_current_dir("/"))?;
    tmpfs(Path::new(ROOT), "mode=755")?;
    Ok(ROOT.into())
}

fn tmpfs(at: &Path, options: &str) -> Step {
    let options = step("read options", std::ffi::CString::new(options))?;
    step(
        format!("mount memory at {}", at.display()),
        rustix::mount::mount("tmpfs", at, "tmpfs", PLAIN, options.as_c_str()),
    )
}

fn furnish(plan: &Plan, root: &Path) -> Step {
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let memory = format!("mode=1777,size={MEMORY_BYTES}");
    folder(&inside(Path::new("/proc")))?;
    let no_exec = PLAIN | MountFlags::NOEXEC;
    step("mount /proc", rustix::mount::mount("proc", inside(Path::new("/proc")), "proc", no_exec, None))?;
    devices(&inside(Path::new("/dev")), &memory)?;
    folder(&inside(Path::new("/tmp")))?;
    tmpfs(&inside(Path::new("/tmp")), &memory)?;
    for link in &plan.links {
        folder_above(&inside(&link.at))?;
        step("make a link", std::os::unix::fs::symlink(&link.to, inside(&link.at)))?;
    }
    for entry in &plan.read_only {
        bind(&entry.from, &inside(&entry.at), MountFlags::RDONLY | PLAIN)?;
    }
    bind(&plan.dir, &inside(&plan.dir), PLAIN)?;
    for read_only in [inside(Path::new("/dev")), root.to_owned()] {
        remount(&read_only, PLAIN | MountFlags::RDONLY)?;
    }
    Ok(())
}

fn devices(dev: &Path, memory: &str) -> Step {
    folder(dev)?;
    tmpfs(dev, "mode=755")?;
    for name in DEVICES {
        bind(&Path::new("/dev").join(name), &dev.join(name), MountFlags::NOSUID)?;
    }
    folder(&dev.join("shm"))?;
    tmpfs(&dev.join("shm"), memory)?;
    for (name, to) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        step("make a link", std::os::unix::fs::symlink(Path::new("/proc/self").join(to), dev.join(name)))?;
    }
    Ok(())
}

fn folder(path: &Path) -> Step {
    step(format!("make {}", path.display()), fs::create_dir_all(path))
}

fn folder_above(path: &Path) -> Step {
    path.parent().map_or(Ok(()), folder)
}

/// Binds `from` of the host with all that is mounted below it (a part of it could show what those mounts cover).
fn bind(from: &Path, at: &Path, flags: MountFlags) -> Step {
    let source = Path::new(HOST).join(from.strip_prefix("/").unwrap_or(from));
    let what = |verb: &str| format!("{verb} {}", from.display());
    if step(what("look at"), fs::metadata(&source))?.is_dir() {
        folder(at)?;
    } else {
        folder_above(at)?;
        if !at.exists() {
            step(what("make a place for"), fs::write(at, ""))?;
        }
    }
    step(what("bind"), rustix::mount::mount_bind_recursive(&source, at))?;
    let at = step(what("find"), fs::canonicalize(at))?;
    let listed = step("list mounts", super::mounts::list(&Path::new(ROOT).join("proc")))?;
    for mount in listed.iter().filter(|mount| mount.at.starts_with(&at)) {
        remount(&mount.at, flags | kept(mount))?;
    }
    Ok(())
}

/// What a mount already forbids stays so: the kernel lets no user namespace loosen it.
fn kept(mount: &super::mounts::Mount) -> MountFlags {
    [
        ("ro", MountFlags::RDONLY),
        ("nosuid", MountFlags::NOSUID),
        ("nodev", MountFlags::NODEV),
        ("noexec", MountFlags::NOEXEC),
        ("noatime", MountFlags::NOATIME),
        ("nodiratime", MountFlags::NODIRATIME),
        ("relatime", MountFlags::RELATIME),
    ]
    .into_iter()
    .filter(|(name, _)| mount.options.iter().any(|option| option == name))
    .fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

fn remount(at: &Path, flags: MountFlags) -> Step {
    let result = rustix::mount::mount_remount(at, MountFlags::BIND | flags, c"");
    step(format!("set the flags of {}", at.display()), result)
}

/// Lets go of the host's root and makes `root` the only one (pivot_root(2), "pivot_root(".", ".")").
fn enter(root: &Path) -> Step {
    step("let go of the host", rustix::mount::unmount(HOST, UnmountFlags::DETACH))?;
    step("enter the root", std::env::set_current_dir(root))?;
    step("make it the root", rustix::process::pivot_root(".", "."))?;
    step("let go of the old root", rustix::mount::unmount(".", UnmountFlags::DETACH))?;
    step("enter the root", std::env::set_current_dir("/"))
}

fn give_up_capabilities() -> Step {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    for capability in CapabilitySet::all().iter() {
        // The kernel may know fewer than we do; the proof looks at what is left.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    step("clear capabilities", rustix::thread::clear_ambient_capability_set())?;
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    step("clear capabilities", rustix::thread::set_capabilities(None, sets))
}
