//! A base backup as the server sends it: `BASE_BACKUP`, 15 and newer.
//!
//! The answer, in order: a row (start LSN, timeline); rows (tablespace OID, path, size), the data directory itself last
//! and without OID; then one copy stream whose messages begin with `n` (a new archive: name, tablespace path), `m` (the
//! manifest, which is not asked for), `d` (bytes of a tar archive), `p` (progress); then a row (end LSN, timeline)
//! (documentation, "Streaming Replication Protocol"; `basebackup_copy.c`). The tablespaces' archives come first,
//! `base.tar` last, in it `backup_label` first and `global/pg_control` last.
//!
//! Tablespaces are left as links in `base.tar` (no `TABLESPACE_MAP`): a restore makes its own links and never follows
//! captured ones. The server neither waits for archiving (the WAL comes through our slot), nor checks pages
//! (`relation::PageCheck` does), nor hashes a manifest.
//!
//! Not here: servers before 15, which send one bare copy stream per archive; they are refused by name.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::{Buf as _, Bytes};

use super::replication::Replication;
use super::wire::{Fault, Frame, Row, Wire, WireError, column, row};
use crate::ids::{Lsn, Timeline};

/// How long the server may say nothing once data flows. A slow disk makes it pause; an hour of silence is a hang.
const STALLED_AFTER: Duration = Duration::from_secs(600);
/// How long the first checkpoint may take: `checkpoint_timeout` can be a day, spread over most of it.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(86_400);

/// How the base backup is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Ends up in `backup_label`.
    pub label: String,
    /// Checkpoint at once, at the price of a burst of writes; otherwise spread over `checkpoint_timeout`.
    pub fast_checkpoint: bool,
    /// Have the server check pages too. lifeboat checks them itself, so normally false.
    pub verify_on_server: bool,
    /// KiB per second the server sends at most (32 to 1,048,576).
    pub max_rate_kib: Option<u32>,
}

/// A tablespace of the backup; the data directory itself is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    pub oid: u32,
    /// Where it is on the server.
    pub path: String,
}

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent {
    Start {
        /// WAL is needed from here.
        lsn: Lsn,
        timeline: Timeline,
        tablespaces: Vec<Tablespace>,
        /// The server's estimate of all bytes to come, in KiB.
        total_kib: u64,
    },
    /// A new archive begins: a tablespace's, or the data directory's.
    Archive {
        tablespace: Option<Tablespace>,
    },
    Data(Bytes),
    /// Bytes of files done so far, as the server counts.
    Progress(u64),
    End {
        /// The copy is consistent once WAL up to here is replayed.
        lsn: Lsn,
        timeline: Timeline,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Copying,
    Ended,
}

/// A base backup flowing in. Dropping it closes the connection, which ends the backup on the server.
#[derive(Debug)]
pub struct BaseBackupStream {
    replication: Replication,
    state: State,
    tablespaces: Vec<Tablespace>,
}

impl Replication {
    /// Asks for a base backup.
    ///
    /// # Errors
    /// When the server is older than 15, or an option makes no sense.
    pub async fn base_backup(mut self, options: &BaseBackupOptions) -> Result<BaseBackupStream, WireError> {
        self.needs("BASE_BACKUP", 15)?;
        if options.label.len() > 1000 || options.label.chars().any(char::is_control) {
            let name = options.label.clone();
            return Err(self.wire.fault(Fault::BadName { name, wanted: "a label of one line" }));
        }
        self.wire.ask(&command(options))?;
        self.wire.flush().await?;
        Ok(BaseBackupStream { replication: self, state: State::Starting, tablespaces: Vec::new() })
    }
}

fn command(options: &BaseBackupOptions) -> String {
    let mut command = format!(
        "BASE_BACKUP (LABEL '{}', CHECKPOINT '{}', VERIFY_CHECKSUMS {}, PROGRESS true, WAIT false, MANIFEST 'no'",
        options.label.replace('\'', "''"),
        if options.fast_checkpoint { "fast" } else { "spread" },
        options.verify_on_server,
    );
    if let Some(rate) = options.max_rate_kib {
        let _ = write!(command, ", MAX_RATE {rate}");
    }
    command + ")"
}

impl BaseBackupStream {
    /// Waits for what comes next; the first is [`BackupEvent::Start`], the last [`BackupEvent::End`].
    ///
    /// # Errors
    /// When the server gave up or is gone.
    pub async fn next(&mut self) -> Result<BackupEvent, WireError> {
        match self.state {
            State::Starting => self.start().await,
            State::Copying => self.copy().await,
            State::Ended => Err(self.wire().unexpected("the base backup has ended already")),
        }
    }

    /// The connection, ready for the next command; only after [`BackupEvent::End`].
    ///
    /// # Errors
    /// When the backup has not ended.
    pub fn into_replication(mut self) -> Result<Replication, WireError> {
        if self.state == State::Ended {
            Ok(self.replication)
        } else {
            Err(self.wire().unexpected("the base backup has not ended"))
        }
    }

    fn wire(&mut self) -> &mut Wire {
        &mut self.replication.wire
    }

    async fn frame(&mut self, within: Duration, doing: &'static str) -> Result<Frame, WireError> {
        match tokio::time::timeout(within, self.wire().next()).await {
            Ok(frame) => frame,
            Err(_) => Err(self.wire().fault(Fault::Silent { doing, seconds: within.as_secs() })),
        }
    }

    async fn start(&mut self) -> Result<BackupEvent, WireError> {
        let mut rows: Vec<Row> = Vec::new();
        loop {
            let frame = self.frame(CHECKPOINT_WITHIN, "waiting for the checkpoint").await?;
            match frame.tag {
                b'T' | b'C' => {}
                b'D' => {
                    rows.push(row(&frame.body).ok_or_else(|| self.wire().unexpected("a broken row"))?);
                }
                b'H' => break,
                tag => return Err(self.wire().unexpected(format!("message '{}' to BASE_BACKUP", char::from(tag)))),
            }
        }
        self.state = State::Copying;
        let started = rows.split_first().and_then(|(first, spaces)| {
            let lsn = column(first, 0)?;
            let timeline = Timeline(column(first, 1)?);
            let total_kib = spaces.iter().filter_map(|space| column::<u64>(space, 2)).sum();
            let named = spaces.iter().filter(|space| space.first().is_some_and(Option::is_some));
            let tablespaces: Option<Vec<_>> =
                named.map(|space| Some(Tablespace { oid: column(space, 0)?, path: column(space, 1)? })).collect();
            Some((lsn, timeline, tablespaces?, total_kib))
        });
        let Some((lsn, timeline, tablespaces, total_kib)) = started else {
            return Err(self.wire().unexpected("BASE_BACKUP began without LSN, timeline and tablespaces"));
        };
        self.tablespaces.clone_from(&tablespaces);
        Ok(BackupEvent::Start { lsn, timeline, tablespaces, total_kib })
    }

    async fn copy(&mut self) -> Result<BackupEvent, WireError> {
        let frame = self.frame(STALLED_AFTER, "copying").await?;
        match frame.tag {
            b'd' => {
                let event = self.understand(frame.body);
                event.ok_or_else(|| self.wire().unexpected("an unknown message inside the base backup"))
            }
            b'c' => self.end().await,
            tag => Err(self.wire().unexpected(format!("message '{}' inside the base backup", char::from(tag)))),
        }
    }

    fn understand(&self, mut body: Bytes) -> Option<BackupEvent> {
        match body.try_get_u8().ok()? {
            b'd' => Some(BackupEvent::Data(body)),
            b'p' => Some(BackupEvent::Progress(body.try_get_u64().ok()?)),
            b'n' => {
                // The archive's name is `base.tar` or `<oid>.tar`; the OID is what counts, the path is for people.
                let name = std::str::from_utf8(body.split(|byte| *byte == 0).next()?).ok()?;
                if name == "base.tar" {
                    return Some(BackupEvent::Archive { tablespace: None });
                }
                let oid: u32 = name.strip_suffix(".tar")?.parse().ok()?;
                let tablespace = self.tablespaces.iter().find(|tablespace| tablespace.oid == oid)?;
                Some(BackupEvent::Archive { tablespace: Some(tablespace.clone()) })
            }
            _ => None,
        }
    }

    async fn end(&mut self) -> Result<BackupEvent, WireError> {
        let mut end = None;
        loop {
            let frame = self.frame(STALLED_AFTER, "waiting for the end of the base backup").await?;
            match frame.tag {
                b'T' | b'C' => {}
                b'D' => end = row(&frame.body).and_then(|row| Some((column(&row, 0)?, Timeline(column(&row, 1)?)))),
                b'Z' => break,
                tag => return Err(self.wire().unexpected(format!("message '{}' after the backup", char::from(tag)))),
            }
        }
        self.state = State::Ended;
        let (lsn, timeline) = end.ok_or_else(|| self.wire().unexpected("the base backup ended without its end LSN"))?;
        Ok(BackupEvent::End { lsn, timeline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_leave_its_quotes() {
        let options = BaseBackupOptions {
            label: "it's".to_owned(),
            fast_checkpoint: true,
            verify_on_server: false,
            max_rate_kib: Some(1024),
        };
        let wanted = "BASE_BACKUP (LABEL 'it''s', CHECKPOINT 'fast', VERIFY_CHECKSUMS false, PROGRESS true, \
                      WAIT false, MANIFEST 'no', MAX_RATE 1024)";
        assert_eq!(command(&options), wanted);
    }
}
