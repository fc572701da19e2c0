//! What a recovered server says in its log: how far it came, where it stopped, why it gave up.
//!
//! Lines are `%m [%p] LEVEL:  text` as `server.rs` configures them; continuation lines begin with a tab and are passed
//! over, so that nothing inside a logged statement counts. Texts are PostgreSQL's English ones, 14 to 18
//! (`xlogrecovery.c`, `xlog.c`). Only the startup process speaks of recovery; what it says before "ready to accept
//! connections" is what counts.

use jiff::Timestamp;

use crate::ids::{Lsn, Timeline};

/// What the log told so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryLog {
    pub redo_started: Option<Lsn>,
    /// From here on the copy is consistent.
    pub consistent: Option<Lsn>,
    /// The server's words on where it stopped, such as `before commit of transaction 740, time ...`. `None` when it
    /// replayed all there was.
    pub stopped: Option<String>,
    /// The last record read begins here. It was replayed, unless `stopped` begins with `before`: then it is the first
    /// that was not.
    pub redo_done: Option<Lsn>,
    /// When the last transaction replayed had committed.
    pub last_commit: Option<Timestamp>,
    pub new_timeline: Option<Timeline>,
    /// WAL files fetched.
    pub restored_files: u64,
    pub ready: bool,
    /// FATAL and PANIC of the recovery, in order.
    pub failures: Vec<String>,
    /// The WAL ended and the target was not among it.
    pub target_not_reached: bool,
    /// A folder that replay needs and that was not restored: another tenant's, as source of a `FILE_COPY`.
    pub missing_folder: Option<String>,
}

impl RecoveryLog {
    /// Reads a whole log.
    #[must_use]
    pub fn of(log: &str) -> Self {
        let mut found = Self::default();
        for line in log.lines() {
            found.hear(line);
        }
        found
    }

    /// Takes the next line.
    pub fn hear(&mut self, line: &str) {
        if self.ready || line.starts_with('\t') {
            return;
        }
        let Some((level, text)) = level_and_text(line) else { return };
        match level {
            "LOG" => self.hear_log(text),
            "FATAL" | "PANIC" if is_a_client(text) => {}
            "FATAL" | "PANIC" => self.hear_failure(text),
            _ => {}
        }
    }

    fn hear_log(&mut self, text: &str) {
        if let Some(lsn) = text.strip_prefix("redo starts at ") {
            self.redo_started = lsn.parse().ok();
        } else if let Some(rest) = text.strip_prefix("consistent recovery state reached at ") {
            self.consistent = first_word(rest).parse().ok();
        } else if let Some(rest) = text.strip_prefix("recovery stopping ") {
            self.stopped = Some(rest.to_owned());
        } else if let Some(rest) = text.strip_prefix("redo done at ") {
            self.redo_done = first_word(rest).parse().ok();
        } else if let Some(rest) = text.strip_prefix("last completed transaction was at log time ") {
            self.last_commit = timestamp(rest);
        } else if let Some(rest) = text.strip_prefix("selected new timeline ID: ") {
            self.new_timeline = rest.parse().ok().map(Timeline);
        } else if text.starts_with("restored log file \"") {
            self.restored_files += 1;
        } else if text.starts_with("database system is ready to accept connections") {
            self.ready = true;
        }
    }

    fn hear_failure(&mut self, text: &str) {
        if text.starts_with("recovery ended before configured recovery target was reached") {
            self.target_not_reached = true;
        }
        if let Some(rest) = text.strip_prefix("missing directory \"") {
            self.missing_folder = Some(rest.trim_end_matches('"').to_owned());
        }
        self.failures.push(text.to_owned());
    }
}

/// Refusals to clients that came too early are no failure of the recovery.
fn is_a_client(text: &str) -> bool {
    text.starts_with("the database system is ")
}

/// `2026-11-22 07:42:24.123 UTC [4711] LOG:  redo starts at 0/2000028`
fn level_and_text(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once("] ")?;
    let (level, text) = rest.split_once(":  ")?;
    Some((level, text))
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// `2026-11-22 07:42:24.123456+00`: the session's time zone is UTC as configured.
fn timestamp(text: &str) -> Option<Timestamp> {
    let (date, time) = text.trim().split_once(' ')?;
    format!("{date}T{}Z", time.strip_suffix("+00")?).parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_recovery_to_a_time_says_where_it_stopped_and_what_it_reached() {
        let log = "\
2026-11-22 07:42:24.000 UTC [2] LOG:  starting point-in-time recovery to 2026-11-22 07:42:20+00
2026-11-22 07:42:24.000 UTC [2] LOG:  restored log file \"000000010000000000000002\" from archive
2026-11-22 07:42:24.000 UTC [2] LOG:  redo starts at 0/2000028
2026-11-22 07:42:24.000 UTC [2] LOG:  consistent recovery state reached at 0/2000100
2026-11-22 07:42:24.000 UTC [9] FATAL:  the database system is not yet accepting connections
2026-11-22 07:42:24.000 UTC [2] LOG:  recovery stopping before commit of transaction 740, time 2026-11-22 07:42:21+00
2026-11-22 07:42:24.000 UTC [2] LOG:  redo done at 0/3000148 system usage: CPU: user: 0.00 s
2026-11-22 07:42:24.000 UTC [2] LOG:  last completed transaction was at log time 2026-11-22 07:42:19.123456+00
2026-11-22 07:42:24.000 UTC [2] LOG:  selected new timeline ID: 2
2026-11-22 07:42:24.000 UTC [1] LOG:  database system is ready to accept connections
2026-11-22 07:42:25.000 UTC [3] PANIC:  later
";
        let found = RecoveryLog::of(log);
        assert_eq!(found.redo_done, Some(Lsn(0x300_0148)));
        assert_eq!(found.last_commit, Some("2026-11-22T07:42:19.123456Z".parse().unwrap()));
        assert!(found.stopped.unwrap().starts_with("before commit of transaction 740"));
        assert_eq!(found.new_timeline, Some(Timeline(2)));
        assert_eq!((found.redo_started, found.consistent), (Some(Lsn(0x200_0028)), Some(Lsn(0x200_0100))));
        assert!(found.ready && found.failures.is_empty() && found.restored_files == 1);
    }

    #[test]
    fn a_target_not_reached_and_a_missing_folder_are_told_apart() {
        let found = RecoveryLog::of(
            "2026-11-22 07:42:24.000 UTC [2] FATAL:  recovery ended before configured recovery target was reached\n",
        );
        assert!(found.target_not_reached && found.missing_folder.is_none());
        let found = RecoveryLog::of("2026-11-22 07:42:24.000 UTC [2] PANIC:  missing directory \"base/16384\"\n");
        assert_eq!(found.missing_folder.as_deref(), Some("base/16384"));
    }

    #[test]
    fn a_logged_statement_cannot_speak_for_the_server() {
        let found = RecoveryLog::of("\t2026-11-22 07:42:24.000 UTC [2] LOG:  redo done at 0/FFFF\n");
        assert_eq!(found, RecoveryLog::default());
    }
}
