//! An independent witness: `pg_basebackup` and `pg_receivewal`, restored by PostgreSQL alone.
//!
//! It begins before lifeboat's backup and receives through a slot of its own, so it has every byte of WAL from there on.
//! A restore replays everything that begins before the LSN (`recovery_target_inclusive = off`) and then promotes, which
//! writes all pages out (shutting down at the target would not); a clean stop follows, so that files can be compared.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::cluster::{Cluster, Running, Server};
use super::process::{Owned, give, run};
use super::scratch;

const SLOT: &str = "oracle";
const LIMIT: Duration = Duration::from_secs(120);

pub struct Oracle {
    server: Server,
    receiver: Option<Owned>,
    dir: TempDir,
}

impl Oracle {
    /// Begins to receive WAL and takes a base backup of the running cluster.
    pub fn begin(cluster: &Cluster) -> Self {
        let dir = scratch();
        let server = cluster.server.clone();
        std::fs::create_dir(dir.path().join("wal")).expect("a folder for WAL");
        run(server.tool("pg_receivewal").args(["--create-slot", "-S", SLOT]));
        let mut receive = server.tool("pg_receivewal");
        receive.args(["-S", SLOT, "--no-sync", "-s", "1", "-n", "-D"]).arg(dir.path().join("wal"));
        receive.stdout(Stdio::null()).stderr(std::fs::File::create(dir.path().join("receive.log")).expect("a log"));
        let receiver = Some(Owned::spawn(&mut receive));
        run(server
            .tool("pg_basebackup")
            .args(["-X", "none", "-c", "fast", "--no-sync", "-D"])
            .arg(dir.path().join("base")));
        Self { server, receiver, dir }
    }

    /// The folder with what `pg_receivewal` wrote: whole segments and one `.partial`.
    pub fn wal(&self) -> PathBuf {
        self.dir.path().join("wal")
    }

    /// The base backup as taken; untouched by restores.
    pub fn base(&self) -> PathBuf {
        self.dir.path().join("base")
    }

    /// Waits until everything up to `lsn` has been received (written, not flushed: the machine does not crash).
    ///
    /// An insert position may be past the last flush (nobody waits for what no commit needs), and past the header of
    /// a page that is not written yet: a committed message of our own carries everything before it out.
    pub fn wait_for(&self, lsn: &str) {
        self.server.psql("postgres", "SELECT pg_logical_emit_message(true, 'oracle', 'flush')");
        let sql =
            format!("SELECT write_lsn >= '{lsn}' FROM pg_stat_replication WHERE application_name = 'pg_receivewal'");
        let begun = Instant::now();
        while self.server.psql("postgres", &sql) != "t" {
            assert!(begun.elapsed() < LIMIT, "the oracle has not received {lsn}: {}", self.log());
            sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("receive.log")).unwrap_or_default()
    }

    /// Ends receiving and gives the slot back.
    pub fn stop_receiving(&mut self) {
        if let Some(mut receiver) = self.receiver.take() {
            receiver.signal(Signal::INT);
            receiver.wait(LIMIT).expect("pg_receivewal ends");
            run(self.server.tool("pg_receivewal").args(["--drop-slot", "-S", SLOT]));
        }
    }

    /// The cluster as it was before the record at `lsn`; stopped cleanly, in `<dir>/data`.
    pub fn restore_to(&self, lsn: &str) -> Restored {
        let dir = scratch();
        run(Command::new("cp").arg("-a").arg(self.base()).arg(dir.path().join("data")));
        let restored = recover(dir, &self.wal(), Some(lsn));
        restored.start().stop();
        restored
    }
}

/// A restored data directory, in a folder of its own.
pub struct Restored {
    pub data: PathBuf,
    dir: TempDir,
}

impl Restored {
    /// Starts the server and waits until it takes writes.
    pub fn start(&self) -> Running {
        let running = Running::start(&self.data, &self.dir.path().join("s"), 5432);
        running.wait_for_promotion(LIMIT);
        running
    }
}

/// Prepares `<dir>/data` for recovery from the segments in `wal`, up to `lsn` or to the end, under a configuration of our own.
pub fn recover(dir: TempDir, wal: &Path, lsn: Option<&str>) -> Restored {
    let (data, socket) = (dir.path().join("data"), dir.path().join("s"));
    std::fs::create_dir(&socket).expect("a folder for the socket");
    give(wal); // pg_receivewal writes with mode 0600, as the user of the test
    let wal = wal.display();
    let mut conf = format!(
        "restore_command = 'cp {wal}/%f %p 2>/dev/null || cp {wal}/%f.partial %p 2>/dev/null'\n\
         recovery_target_action = 'promote'\nautovacuum = off\nfsync = off\nshared_buffers = '64MB'\n\
         max_prepared_transactions = 10\nhot_standby = off\narchive_mode = off\n"
    );
    if let Some(lsn) = lsn {
        conf.push_str(&format!("recovery_target_lsn = '{lsn}'\nrecovery_target_inclusive = off\n"));
    }
    std::fs::write(data.join("postgresql.auto.conf"), conf).expect("its configuration");
    std::fs::write(data.join("pg_hba.conf"), "local all all trust\n").expect("its access rules");
    std::fs::write(data.join("recovery.signal"), "").expect("the signal file");
    give(dir.path());
    Restored { data, dir }
}
