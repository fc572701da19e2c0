//! Changes in every tenant while something else happens, and moments to come back to.
//!
//! One thread per tenant commits small transactions: updates and inserts in Odoo's own tables, attachments with their
//! file written first (as Odoo does), out-of-line values, subtransactions, rollbacks. Each committed one carries a
//! number, in the table `workload_commit` and in the log here: after a restore the greatest number says exactly which
//! commits came back. A [`Moment`] is taken while that tenant's writer stands still, so its time lies strictly
//! between two of the tenant's commits and its LSN between their records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use sha1::{Digest as _, Sha1};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::cluster::{Cluster, Server};
use super::fingerprint::{State, files, take};
use super::random_text;

/// A commit that the client knows of.
#[derive(Debug, Clone)]
pub struct Commit {
    pub number: u64,
    /// The insert position just after the commit returned: an upper bound of its record's end.
    pub lsn: String,
    /// The server's clock just after, RFC 3339.
    pub time: String,
}

/// What a tenant was at one moment.
#[derive(Debug, Clone)]
pub struct Moment {
    pub tenant: String,
    /// The position before the tenant's next record.
    pub lsn: String,
    /// After the tenant's last commit and before its next; RFC 3339, microseconds, UTC.
    pub time: String,
    /// The greatest number committed; 0 when none.
    pub number: u64,
    pub state: State,
    /// The filestore's files with their SHA-1.
    pub files: BTreeMap<String, String>,
}

struct Writer {
    /// Held through each transaction; whoever else holds it has the tenant standing still.
    gate: Arc<Mutex<()>>,
    log: Arc<Mutex<Vec<Commit>>>,
    thread: JoinHandle<Result<(), sqlx::Error>>,
}

pub struct Workload {
    server: Server,
    filestore: PathBuf,
    stop: Arc<AtomicBool>,
    writers: BTreeMap<String, Writer>,
}

const NOW: &str = "SELECT pg_current_wal_insert_lsn()::text, to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

impl Workload {
    /// Begins to write in the databases of `cluster`'s tenants, resting `pause` between transactions.
    pub fn start(cluster: &Cluster, databases: &[&str], pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = |database: &&str| {
            cluster.psql(database, TABLES);
            let (gate, log) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
            let job = Job {
                server: cluster.server.clone(),
                database: (*database).to_owned(),
                files: cluster.filestore.join(database),
                stop: stop.clone(),
                gate: gate.clone(),
                log: log.clone(),
                pause,
            };
            let thread = std::thread::spawn(move || job.run());
            ((*database).to_owned(), Writer { gate, log, thread })
        };
        let writers = databases.iter().map(begin).collect();
        Self { server: cluster.server.clone(), filestore: cluster.filestore.clone(), stop, writers }
    }

    /// Stands the tenant still, looks at it, lets it go on. The others write meanwhile.
    pub fn moment(&self, database: &str) -> Moment {
        let writer = &self.writers[database];
        let still = writer.gate.lock().expect("the gate");
        let state = take(&self.server, database);
        let files = files(&self.filestore.join(database));
        sleep(Duration::from_millis(2)); // strictly after the last commit, at any clock's grain
        let said = self.server.psql("postgres", NOW);
        let (lsn, time) = said.split_once('\t').expect("two columns");
        sleep(Duration::from_millis(2));
        let number = writer.log.lock().expect("the log").last().map_or(0, |commit: &Commit| commit.number);
        drop(still);
        Moment { tenant: database.to_owned(), lsn: lsn.to_owned(), time: time.to_owned(), number, state, files }
    }

    /// Returns once `more` further transactions of `database` have committed.
    pub fn advance(&self, database: &str, more: usize) {
        let log = &self.writers[database].log;
        let count = || log.lock().expect("the log").len();
        let goal = count() + more;
        while count() < goal {
            assert!(!self.writers[database].thread.is_finished(), "{database}'s writer has stopped");
            sleep(Duration::from_millis(5));
        }
    }

    /// Stops all writers; per tenant, what was committed.
    pub fn stop(self) -> BTreeMap<String, Vec<Commit>> {
        self.stop.store(true, Ordering::Relaxed);
        let end = |(name, writer): (String, Writer)| {
            let ended = writer.thread.join().expect("a writer's thread");
            ended.unwrap_or_else(|error| panic!("{name}'s writer: {error}"));
            (name, Arc::into_inner(writer.log).expect("nobody else logs").into_inner().expect("the log"))
        };
        self.writers.into_iter().map(end).collect()
    }
}

/// The greatest number that came back in `database`; 0 when none.
pub fn last_number(server: &Server, database: &str) -> u64 {
    server.psql(database, "SELECT coalesce(max(n), 0) FROM workload_commit").parse().expect("a number")
}

const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS workload_commit (n bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE IF NOT EXISTS workload_note (id bigserial PRIMARY KEY, short text, long text);
ALTER TABLE workload_note ALTER long SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS workload_note_short ON workload_note (short);";

struct Job {
    server: Server,
    database: String,
    files: PathBuf,
    stop: Arc<AtomicBool>,
    gate: Arc<Mutex<()>>,
    log: Arc<Mutex<Vec<Commit>>>,
    pause: Duration,
}

impl Job {
    fn run(self) -> Result<(), sqlx::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
            .socket(&self.server.socket)
            .port(self.server.port)
            .username("postgres")
            .database(&self.database);
        let mut connection = runtime.block_on(PgConnection::connect_with(&options))?;
        let first: i64 = runtime.block_on(
            sqlx::query_scalar("SELECT coalesce(max(n), 0) + 1 FROM workload_commit").fetch_one(&mut connection),
        )?;
        for number in u64::try_from(first).expect("a positive number").. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let still = self.gate.lock().expect("the gate");
            let sql = transaction(number, &self.files);
            runtime.block_on(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection))?;
            let (lsn, time): (String, String) = runtime.block_on(sqlx::query_as(NOW).fetch_one(&mut connection))?;
            self.log.lock().expect("the log").push(Commit { number, lsn, time });
            drop(still);
            sleep(self.pause);
        }
        runtime.block_on(connection.close())
    }
}

/// The `number`-th transaction: its kind goes round, its content is random.
fn transaction(number: u64, files: &Path) -> String {
    let (short, long) = (random_text(24), random_text(6000));
    let work = match number % 8 {
        0 => format!("UPDATE res_partner SET comment = '{short}', write_date = now() WHERE id % 7 = {};", number % 7),
        1 => format!("INSERT INTO ir_config_parameter (key, value) VALUES ('workload.{number}', '{short}');"),
        2 => format!("INSERT INTO workload_note (short, long) VALUES ('{short}', '{long}');"),
        3 => attachment(number, &long, files),
        4 => format!(
            "INSERT INTO workload_note (short) VALUES ('{short}'); SAVEPOINT a; DELETE FROM workload_note; \
             ROLLBACK TO a; SAVEPOINT b; UPDATE workload_note SET short = '{short}' WHERE id % 3 = 0; RELEASE b;"
        ),
        5 => format!(
            "ROLLBACK; BEGIN; INSERT INTO workload_note (short, long) VALUES ('{short}', '{long}'); ROLLBACK; BEGIN;"
        ),
        6 => "DELETE FROM workload_note WHERE id IN (SELECT id FROM workload_note ORDER BY id LIMIT 1);".to_owned(),
        _ => format!("CREATE TABLE workload_t{number} AS SELECT '{short}'::text AS x; DROP TABLE workload_t{number};"),
    };
    format!("BEGIN; {work} INSERT INTO workload_commit (n) VALUES ({number}); COMMIT;")
}

/// Odoo's order: the file, its mark in the checklist, then the row (`ir_attachment.py`, `_file_write`).
fn attachment(number: u64, content: &str, files: &Path) -> String {
    let sum = hex::encode(Sha1::digest(content));
    let name = format!("{}/{sum}", &sum[..2]);
    for (place, bytes) in [(files.join(&name), content), (files.join("checklist").join(&name), "")] {
        std::fs::create_dir_all(place.parent().expect("a shelf")).expect("a shelf");
        std::fs::write(place, bytes).expect("a file");
    }
    format!(
        "INSERT INTO ir_attachment (name, type, store_fname, checksum, file_size, mimetype, create_date) \
         VALUES ('workload-{number}.txt', 'binary', '{name}', '{sum}', {}, 'text/plain', now());",
        content.len()
    )
}
