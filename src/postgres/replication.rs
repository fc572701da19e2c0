//! A replication connection: the commands that answer at once.
//!
//! `replication=true` (physical) connections speak a small language of their own (PostgreSQL documentation, "Streaming
//! Replication Protocol"). Two commands turn the connection into a stream and therefore consume it:
//! [`Replication::start_physical`] (`wal_stream.rs`) and [`Replication::base_backup`] (`backup_stream.rs`). Both give it
//! back when their stream has ended in order.

use bytes::Bytes;

use super::connect::Server;
use super::wire::{Fault, Row, Wire, WireError, column};
use crate::ids::{Lsn, SystemId, Timeline};

/// A connection that is ready for a command.
#[derive(Debug)]
pub struct Replication {
    pub(super) wire: Wire,
    /// As the server reports it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub server_version: String,
}

/// What `IDENTIFY_SYSTEM` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub system_id: SystemId,
    pub timeline: Timeline,
    /// How far the server has flushed its WAL.
    pub flush_lsn: Lsn,
}

/// A physical slot as `READ_REPLICATION_SLOT` shows it (15 and newer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPosition {
    /// The oldest WAL it keeps; `None` when it reserves none.
    pub restart: Option<Lsn>,
    pub timeline: Option<Timeline>,
}

/// A timeline's history file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// Such as `00000002.history`.
    pub file_name: String,
    pub content: Bytes,
}

impl Replication {
    /// Connects and logs in.
    ///
    /// # Errors
    /// When the server is out of reach or does not let the role in.
    pub async fn connect(server: &Server) -> Result<Self, WireError> {
        let (wire, server_version) = server.open(&[("replication", "true")]).await?;
        Ok(Self { wire, server_version })
    }

    /// The major version, such as 15 (0 when the server reports none).
    #[must_use]
    pub fn major(&self) -> u32 {
        let digits = self.server_version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().unwrap_or_default()
    }

    /// `IDENTIFY_SYSTEM`.
    ///
    /// # Errors
    /// When the connection broke, or the answer makes no sense.
    pub async fn identify(&mut self) -> Result<Identity, WireError> {
        let row = self.one_row("IDENTIFY_SYSTEM").await?;
        let identity = (|| {
            Some(Identity {
                system_id: column(&row, 0)?,
                timeline: Timeline(column(&row, 1)?),
                flush_lsn: column(&row, 2)?,
            })
        })();
        identity.ok_or_else(|| self.wire.unexpected("IDENTIFY_SYSTEM without its columns"))
    }

    /// `SHOW name`: one run-time setting, as the server prints it.
    ///
    /// # Errors
    /// When there is no such setting.
    pub async fn show(&mut self, name: &str) -> Result<String, WireError> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b)) {
            return Err(self.bad_name(name, "a setting's name"));
        }
        let row = self.one_row(&format!("SHOW {name}")).await?;
        column(&row, 0).ok_or_else(|| self.wire.unexpected("SHOW without a text"))
    }

    /// Creates a physical slot that keeps WAL from now on.
    ///
    /// # Errors
    /// When the slot exists (SQLSTATE 42710), or there is no room for another.
    pub async fn create_slot(&mut self, name: &str) -> Result<(), WireError> {
        self.check_slot_name(name)?;
        self.wire.command(&format!("CREATE_REPLICATION_SLOT {name} PHYSICAL RESERVE_WAL")).await.map(|_| ())
    }

    /// Drops a slot; the server keeps no more WAL for it.
    ///
    /// # Errors
    /// When there is no such slot, or somebody uses it.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), WireError> {
        self.check_slot_name(name)?;
        self.wire.command(&format!("DROP_REPLICATION_SLOT {name}")).await.map(|_| ())
    }

    /// Where a physical slot stands; `None` when there is no such slot. More is known to SQL (`sql::slot_facts`).
    ///
    /// # Errors
    /// When the server is older than 15, or the slot is a logical one.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<SlotPosition>, WireError> {
        self.check_slot_name(name)?;
        self.needs("READ_REPLICATION_SLOT", 15)?;
        let row = self.one_row(&format!("READ_REPLICATION_SLOT {name}")).await?;
        if row.first().is_none_or(Option::is_none) {
            return Ok(None);
        }
        Ok(Some(SlotPosition { restart: column(&row, 1), timeline: column(&row, 2).map(Timeline) }))
    }

    /// `TIMELINE_HISTORY`: the file that says where this timeline branched off. The first timeline has none.
    ///
    /// # Errors
    /// When the server does not have it (SQLSTATE 58P01).
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<TimelineHistory, WireError> {
        let row = self.one_row(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let history = (|| Some(TimelineHistory { file_name: column(&row, 0)?, content: row.get(1)?.clone()? }))();
        history.ok_or_else(|| self.wire.unexpected("TIMELINE_HISTORY without its columns"))
    }

    async fn one_row(&mut self, command: &str) -> Result<Row, WireError> {
        let mut rows = self.wire.command(command).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(self.wire.unexpected(format!("not one row to {command}"))),
        }
    }

    pub(super) fn needs(&self, what: &'static str, needs: u32) -> Result<(), WireError> {
        if self.major() >= needs {
            return Ok(());
        }
        Err(self.wire.fault(Fault::TooOld { version: self.server_version.clone(), what, needs }))
    }

    /// Slot names: lower-case letters, digits, underscore, at most 63 (`ReplicationSlotValidateName`). Checked here
    /// because the name goes into a command unquoted.
    pub(super) fn check_slot_name(&self, name: &str) -> Result<(), WireError> {
        let fine = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if fine { Ok(()) } else { Err(self.bad_name(name, "a slot's name (a-z, 0-9, _)")) }
    }

    fn bad_name(&self, name: &str, wanted: &'static str) -> WireError {
        self.wire.fault(Fault::BadName { name: name.to_owned(), wanted })
    }
}
