//! What `restore --to` left behind, started as its new owner would start it, with a way in for the test.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::cluster::Running;
use super::process::give;
use super::scratch;

/// The server of a restored folder; its socket's folder goes with it.
pub struct Started {
    pub running: Running,
    _socket: TempDir,
}

/// Starts `<to>/pgdata` under the configuration that lifeboat wrote; only who may connect is widened.
pub fn start(to: &Path) -> Started {
    let socket = scratch();
    let data = to.join("pgdata");
    std::fs::write(data.join("pg_hba.conf"), "local all all trust\n").expect("its access rules");
    give(&data);
    give(socket.path());
    let running = Running::start(&data, socket.path(), 5432);
    running.wait_for_promotion(Duration::from_secs(90));
    Started { running, _socket: socket }
}

/// The processes that have `folder` in their command line, working folder or root: what a killed restore must not leave.
pub fn processes_in(folder: &Path) -> Vec<String> {
    let needle = folder.to_str().expect("a folder of our own");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let link = |name| std::fs::read_link(entry.path().join(name)).unwrap_or_default();
        let inside = [link("cwd"), link("root")].iter().any(|at| at.starts_with(folder));
        if pid != std::process::id() && (words.contains(needle) || inside) {
            found.push(format!("{pid} {words}"));
        }
    }
    found
}
