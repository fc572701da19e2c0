//! A real Odoo over the restored database, inside the sandbox: quieted, started, waited for, stopped.
//!
//! The command is the configuration's (`[drill.odoo]`), with placeholders filled in. Before it starts, what acts outward is switched
//! off in the restored copy: mail servers, mailboxes that are fetched, scheduled actions. `database.uuid` and `database.secret` stay as
//! they are: nothing here can reach anybody to whom they mean something.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::http::Http;
use crate::config::OdooCommand;
use crate::failure::{Failure, Kind};
use crate::postgres::sql;
use crate::restore::recover::Recovered;
use crate::sandbox::{Process, Sandbox, Signal, Spawn};

const LOG: &str = "odoo.log";
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How much of the end of Odoo's log is read.
const LOG_BYTES: u64 = 1 << 20;

/// The placeholders of the command.
pub const PLACEHOLDERS: [&str; 5] = ["{database}", "{role}", "{data_dir}", "{socket_dir}", "{port}"];

/// Checks the command before anything is restored.
///
/// # Errors
/// `Usage` for a word in braces that is no placeholder.
pub fn check(command: &OdooCommand) -> Result<(), Failure> {
    let mut rest = command.command.join("\n");
    for placeholder in PLACEHOLDERS {
        rest = rest.replace(placeholder, "");
    }
    match rest.find('{').zip(rest.find('}')) {
        Some((open, close)) if open < close => {
            let cause = format!("'{}' is no placeholder", rest.get(open..=close).unwrap_or_default());
            let next = format!("use {}", PLACEHOLDERS.join(", "));
            Err(Failure::new(Kind::Usage, "[drill.odoo] command", cause, next))
        }
        _ => Ok(()),
    }
}

/// What the placeholders stand for.
#[derive(Debug, Clone)]
pub struct Values {
    pub database: String,
    pub role: String,
    pub data_dir: PathBuf,
    pub socket_dir: String,
    pub port: u16,
}

impl Values {
    /// The command with its placeholders filled in, in one pass: a value is never looked into.
    #[must_use]
    pub fn fill(&self, command: &[String]) -> Vec<String> {
        command.iter().map(|word| self.fill_word(word)).collect()
    }

    fn fill_word(&self, word: &str) -> String {
        let values = [
            &self.database,
            &self.role,
            &self.data_dir.display().to_string(),
            &self.socket_dir,
            &self.port.to_string(),
        ]
        .map(String::clone);
        let (mut out, mut rest) = (String::new(), word);
        'next: while !rest.is_empty() {
            for (placeholder, value) in PLACEHOLDERS.iter().zip(&values) {
                if let Some(after) = rest.strip_prefix(placeholder) {
                    out.push_str(value);
                    rest = after;
                    continue 'next;
                }
            }
            let mut letters = rest.chars();
            out.extend(letters.next());
            rest = letters.as_str();
        }
        out
    }
}

/// What is switched off before Odoo starts: (table, statement).
const QUIET: [(&str, &str); 3] = [
    ("ir_mail_server", "UPDATE public.ir_mail_server SET active = false"),
    ("fetchmail_server", "UPDATE public.fetchmail_server SET active = false"),
    ("ir_cron", "UPDATE public.ir_cron SET active = false"),
];

/// Switches off what acts outward, in the restored copy.
///
/// # Errors
/// When the database refuses; then Odoo must not be started.
pub async fn quiet(connection: &mut PgConnection) -> Result<(), Failure> {
    // No trigger of the restored database runs because of this.
    sql::execute(connection, "quieting Odoo", "SET session_replication_role = replica").await?;
    for (table, statement) in QUIET {
        let there = format!("SELECT pg_catalog.to_regclass('public.{table}')::text");
        if sql::value(connection, table, &there).await.is_ok() {
            sql::execute(connection, table, statement).await?;
        }
    }
    sql::execute(connection, "quieting Odoo", "RESET session_replication_role").await?;
    Ok(())
}

/// Gives Odoo a data folder of its own in the sandbox, with links to the attachments that are shown there read-only.
///
/// # Errors
/// When it cannot be made; with what the program said.
pub async fn data_folder(sandbox: &Sandbox, files: &Path, at: &Path, database: &str) -> Result<(), Failure> {
    let target = at.join("filestore").join(database);
    // Run inside, as the sandbox's user: nothing of ours writes where the restored server can.
    let script = "mkdir -p -- \"$2\" && cp -rs -- \"$1\"/. \"$2\"/";
    let words = ["sh", "-c", script, "sh"].map(str::to_owned).into_iter();
    let paths = [files.join(database), target].map(|path| path.display().to_string());
    let spawn = Spawn { argv: words.chain(paths).collect(), env: Vec::new(), cwd: None, log: "odoo-files.log".into() };
    let exit = sandbox.run(spawn).await?;
    if exit.status.success() {
        return Ok(());
    }
    let cause = format!("{:?}: {}", exit.status, exit.tail.trim());
    Err(Failure::new(Kind::Failed, "Odoo's data folder", cause, "see the message"))
}

/// A running Odoo.
pub struct Odoo<'s> {
    pub http: Http<'s>,
    process: Process,
}

impl<'s> Odoo<'s> {
    /// Starts it and waits until it answers `/web/health`, which says that the process is there and nothing about the database.
    ///
    /// # Errors
    /// When it ends, or does not answer in time: with the end of its log.
    pub async fn start(recovered: &'s Recovered, command: &OdooCommand, values: &Values) -> Result<Self, Failure> {
        let inside = recovered.inside();
        let env = vec![("PGHOST".to_owned(), inside.host.clone()), ("PGPORT".to_owned(), inside.port.to_string())];
        let argv = values.fill(&command.command);
        let process = recovered.sandbox.spawn(Spawn { argv, env, cwd: None, log: LOG.into() }).await?;
        let ended = Arc::new(AtomicBool::new(false));
        tokio::spawn({
            let (process, ended) = (process.clone(), Arc::clone(&ended));
            async move {
                let _status = process.wait().await;
                ended.store(true, Ordering::Relaxed);
            }
        });
        let patience = Duration::from_secs(u64::from(command.start_seconds));
        let http = Http { sandbox: &recovered.sandbox, port: values.port, patience };
        let odoo = Self { http, process };
        let begun = Instant::now();
        loop {
            let quick = Http { patience: Duration::from_secs(5), ..odoo.http };
            if quick.get("/web/health", None).await.is_ok_and(|answer| answer.status == 200) {
                return Ok(odoo);
            }
            let why = if ended.load(Ordering::Relaxed) {
                "ended before it answered".to_owned()
            } else if begun.elapsed() >= patience {
                format!("did not answer within {} s", patience.as_secs())
            } else {
                tokio::time::sleep(ASK_EVERY).await;
                continue;
            };
            let last = odoo.last_words();
            return Err(Failure::new(Kind::Failed, "Odoo", format!("{why}: {last}"), "check [drill.odoo]"));
        }
    }

    /// The last line of its log that says something.
    fn last_words(&self) -> String {
        let tail = self.http.sandbox.tail(Path::new(LOG)).unwrap_or_default();
        tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("its log is empty").trim().to_owned()
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let Ok(mut file) = self.http.sandbox.open(Path::new(LOG)) else { return String::new() };
        let begin = file.metadata().map_or(0, |meta| meta.len().saturating_sub(LOG_BYTES));
        let mut text = Vec::new();
        let _read = file.seek(SeekFrom::Start(begin)).and_then(|_| file.take(LOG_BYTES).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Ends it; the sandbox's end would as well.
    pub async fn stop(self) {
        if self.process.signal(Signal::Kill).await.is_ok() {
            let _status = self.process.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> OdooCommand {
        let command = words.iter().map(ToString::to_string).collect();
        OdooCommand { command, paths: Vec::new(), port: 8069, start_seconds: 1 }
    }

    #[test]
    fn placeholders_are_filled_in_and_values_are_not_looked_into() {
        let values = Values {
            database: "{port}".to_owned(),
            role: "odoo".to_owned(),
            data_dir: "/box/data".into(),
            socket_dir: "/box/s".to_owned(),
            port: 8069,
        };
        let filled =
            values.fill(&["-d".to_owned(), "{database}".to_owned(), "--x={role}@{socket_dir}:{port}ä{".to_owned()]);
        assert_eq!(filled, ["-d", "{port}", "--x=odoo@/box/s:8069ä{"]);
    }

    #[test]
    fn a_word_in_braces_that_means_nothing_is_refused_before_the_drill() {
        assert!(check(&command(&["odoo", "--db={database}", "{port}"])).is_ok());
        let failure = check(&command(&["odoo", "{databse}"])).unwrap_err();
        assert!(failure.kind == Kind::Usage && failure.cause.contains("{databse}"), "{failure}");
    }
}
