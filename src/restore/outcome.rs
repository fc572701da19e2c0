//! What a restore did: `restore.json`, and `restore --json`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use super::assemble::Read;
use super::deliver::Delivered;
use super::files::FilesRestored;
use super::load;
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, Scope, Timeline};

/// What was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reached {
    pub lsn: Lsn,
    pub last_commit_time: Option<Timestamp>,
    pub timeline: Timeline,
}

/// What a restore did: `restore.json`, and `restore --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    pub tenant: String,
    /// What was asked, as it was understood.
    pub asked: String,
    /// The LSN that this meant.
    pub target: Lsn,
    pub reached: Reached,
    pub met: bool,
    pub scopes_opened: BTreeSet<Scope>,
    pub objects_read: u64,
    pub bytes_read: u64,
    pub databases: Vec<String>,
    pub filestore: FilesRestored,
    #[serde(flatten)]
    pub delivered: Delivered,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded: Option<load::Loaded>,
    pub server_version: u32,
    pub seconds: f64,
}

impl Restored {
    /// The failure that a restore with this outcome ends with, if any.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        if !self.filestore.complete() {
            let files = &self.filestore;
            return Some(Failure::new(
                Kind::NotReached,
                format!("filestore of {}", self.tenant),
                format!("{} file(s) missing, {} wrong, of {}", files.missing, files.mismatched, files.referenced),
                "the database is restored; look for the files in a later point or the second copy",
            ));
        }
        (!self.met).then(|| {
            Failure::new(
                Kind::NotReached,
                self.tenant.clone(),
                format!("asked for {}, reached {}", self.asked, self.reached.lsn),
                "restore from another point, or from the second copy",
            )
        })
    }
}

impl Restored {
    pub fn count(&mut self, files: &FilesRestored, read: Read) {
        self.filestore.add(files);
        self.objects_read += read.objects;
        self.bytes_read += read.bytes;
    }
}
