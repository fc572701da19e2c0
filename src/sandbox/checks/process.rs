//! Who the process is, what it may do, and which others it sees.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use crate::sandbox::agent::CORE_BYTES;
use crate::sandbox::launch::core_dumps_are_piped;
use crate::sandbox::proof::{NAMESPACES, Outside, ProofCheck, namespaces_of};

pub fn checks(outside: &Outside, own: &[i32]) -> Vec<ProofCheck> {
    let mut checks = vec![descriptors(own)];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or("unknown").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    checks.push(user(&field("Uid"), &field("Gid"), &field("Groups")));
    checks.push(capabilities(&field));
    let privileges = field("NoNewPrivs");
    checks.push(ProofCheck::new("no new privileges", privileges == "1", privileges));
    let filter = field("Seccomp");
    checks.push(ProofCheck::new("system call filter", filter == "2", format!("mode {filter}")));
    checks.push(core_dumps());
    checks.extend(namespaces(outside));
    checks.push(no_further_user_namespace());
    checks.push(processes(outside));
    checks.push(environment());
    let terminal = fs::File::open("/dev/tty").is_ok();
    checks.push(ProofCheck::new("no terminal", !terminal, format!("opened: {terminal}")));
    checks
}

fn user(uids: &str, gids: &str, groups: &str) -> ProofCheck {
    let nobody_is_root =
        |ids: &str| ids.split(' ').filter(|id| !id.is_empty()).all(|id| id.parse().is_ok_and(|id: u32| id != 0));
    let passed = !uids.is_empty() && !gids.is_empty() && [uids, gids, groups].into_iter().all(nobody_is_root);
    ProofCheck::new("unprivileged user", passed, format!("uids {uids}, gids {gids}, groups {groups}"))
}

fn capabilities(field: &dyn Fn(&str) -> String) -> ProofCheck {
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| (name, field(name)));
    let passed = sets.iter().all(|(_, set)| !set.is_empty() && set.bytes().all(|digit| digit == b'0'));
    let detail: Vec<_> = sets.iter().map(|(name, set)| format!("{name} {set}")).collect();
    ProofCheck::new("no capabilities", passed, detail.join(", "))
}

/// Nothing is dumped to a file below a limit, but a program that the host starts for it is kept away by 1 byte only.
fn core_dumps() -> ProofCheck {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Core).maximum;
    let piped = core_dumps_are_piped();
    let passed = limit == Some(CORE_BYTES) || limit == Some(0) && !piped;
    ProofCheck::new("no core dumps", passed, format!("limit {limit:?}, dumped to a program of the host's: {piped}"))
}

fn namespaces(outside: &Outside) -> Vec<ProofCheck> {
    let inside = namespaces_of("self").unwrap_or_else(|_| BTreeMap::new());
    let check = |kind: &&str| {
        let (here, there) = (inside.get(*kind), outside.namespaces.get(*kind));
        let passed = here.is_some() && there.is_some() && here != there;
        ProofCheck::new(format!("own {kind} namespace"), passed, format!("inside {here:?}, outside {there:?}"))
    };
    NAMESPACES.iter().map(check).collect()
}

/// A new user namespace would bring capabilities over it, and with them much more of the kernel into reach.
fn no_further_user_namespace() -> ProofCheck {
    let tried = Command::new("unshare").args(["--user", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
    let (passed, detail) = match tried {
        Ok(status) => (!status.success(), status.to_string()),
        Err(error) => (false, format!("unshare could not be tried: {error}")),
    };
    ProofCheck::new("no further user namespace", passed, detail)
}

/// The agent is process 1 and alone; the number that lifeboat has on the host means nothing here.
fn processes(outside: &Outside) -> ProofCheck {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let seen: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let me = std::process::id();
    let passed = me == 1 && seen == [1] && !seen.contains(&outside.pid);
    ProofCheck::new("no other processes", passed, format!("this is process {me}, {} seen", seen.len()))
}

/// `PWD` is bubblewrap's doing.
fn environment() -> ProofCheck {
    let allowed = ["PATH", "LANG", "HOME", "PWD"];
    let names: Vec<_> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    let passed = names.iter().all(|name| allowed.contains(&name.as_str()));
    ProofCheck::new("empty environment", passed, names.join(" "))
}

/// Standard input, output and error, the conversation, and the one that lists the others.
fn descriptors(own: &[i32]) -> ProofCheck {
    let entries = match fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries,
        Err(error) => return ProofCheck::new("no inherited descriptors", false, error.to_string()),
    };
    let mut foreign = Vec::new();
    for entry in entries.flatten() {
        let number: i32 = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(i32::MAX);
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let lists = target.to_str().is_some_and(|target| target.starts_with("/proc/") && target.ends_with("/fd"));
        if number > 2 && !own.contains(&number) && !lists {
            foreign.push(format!("{number} {}", target.display()));
        }
    }
    ProofCheck::new("no inherited descriptors", foreign.is_empty(), foreign.join(", "))
}
