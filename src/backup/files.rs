//! A filestore folder into a set: every file there is, its SHA-1 checked against its name, what is wrong said.
//!
//! All regular files go in, referenced or not: a transaction that commits a moment later may reference one, and a target in
//! time may lie after this backup. What the rows want and the folder does not have is recorded as **missing at source**, so
//! that a restore can tell it from what the backup lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::filestore::FileName;
use crate::filestore::rows::Referenced;
use crate::filestore::scan::{Entry, Filestore, Kind, ScanError};
use crate::repo::set_writer::{FileMeta, SetWriter};
use crate::watch::{Watch, note, warn};

/// Attachments are stored whole up to this size, and cut at it beyond: the bound on memory.
pub const PIECE_BYTES: usize = 4 << 20;
/// More names of one kind than this are counted, not listed.
const LISTED: usize = 1000;

/// What was taken of one filestore; sealed with the set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesTaken {
    /// Distinct names that rows reference.
    pub referenced: u64,
    pub files: u64,
    pub bytes: u64,
    pub checklist: u64,
    /// Referenced and not in the folder.
    pub missing_at_source: Vec<String>,
    /// In the folder with other content than their name says.
    pub mismatched: Vec<String>,
    /// Links, pipes, foreign names: not taken.
    pub strange: Vec<String>,
    pub unreadable: Vec<String>,
    /// Rows whose bytes lie outside, by kind (`url`, `cloud_storage`).
    pub external: BTreeMap<String, u64>,
}

/// The source's name of a database's filestore.
#[must_use]
pub fn source(database: &str) -> String {
    format!("filestore-{database}")
}

/// Takes the folder of one database into `set`. Synchronous: call it where blocking is fine.
///
/// # Errors
/// When the folder itself cannot be read, or the set cannot be written.
pub fn take(
    mut set: SetWriter,
    folder: &Path,
    referenced: &Referenced,
    watch: &dyn Watch,
) -> Result<(SetWriter, FilesTaken), Failure> {
    let wanted: BTreeSet<FileName> = referenced.rows.iter().map(|row| row.store_fname).collect();
    let mut taken = FilesTaken {
        referenced: wanted.len() as u64,
        external: referenced.counts.external.clone(),
        ..FilesTaken::default()
    };
    let mut seen = BTreeSet::new();
    match Filestore::open(folder) {
        Ok(store) => {
            for entry in store.scan()? {
                take_entry(&mut set, &store, &entry, &wanted, &mut seen, &mut taken, watch)?;
            }
            // Written and committed while the folder was being walked, or gone when its turn came: one more look.
            for name in wanted.difference(&seen.clone()) {
                if matches!(take_file(&mut set, &store, name, &mut taken, watch)?, Outcome::Stored) {
                    seen.insert(*name);
                }
            }
        }
        Err(error @ ScanError::NoFolder { .. }) if wanted.is_empty() => {
            note(watch, source_of(folder), error.to_string());
        }
        Err(error) => return Err(error.into()),
    }
    taken.missing_at_source = wanted.difference(&seen).take(LISTED).map(ToString::to_string).collect();
    if !taken.missing_at_source.is_empty() {
        let what = format!("{} attachment(s) have no file on the source", wanted.difference(&seen).count());
        warn(watch, source_of(folder), what, "they were missing before this backup; see the set's facts for the names");
    }
    Ok((set, taken))
}

fn source_of(folder: &Path) -> String {
    format!("filestore {}", folder.display())
}

fn take_entry(
    set: &mut SetWriter,
    store: &Filestore,
    entry: &Entry,
    wanted: &BTreeSet<FileName>,
    seen: &mut BTreeSet<FileName>,
    taken: &mut FilesTaken,
    watch: &dyn Watch,
) -> Result<(), Failure> {
    match &entry.kind {
        Kind::File(name) => {
            if matches!(take_file(set, store, name, taken, watch)?, Outcome::Stored) && wanted.contains(name) {
                seen.insert(*name);
            }
        }
        Kind::Checklist(name) => {
            taken.checklist += 1;
            set.start_file(FileMeta { path: format!("checklist/{name}"), mode: 0o600, ..FileMeta::default() })?;
            set.end_file(BTreeMap::new())?;
        }
        Kind::Symlink | Kind::Strange(_) => {
            let what = if entry.kind == Kind::Symlink { "is a symbolic link" } else { "is not an attachment's file" };
            warn(watch, &entry.path, format!("{what}; it is not backed up"), "look at it in the filestore");
            list(&mut taken.strange, &entry.path);
        }
        Kind::Vanished => note(watch, &entry.path, "vanished while the filestore was read"),
        Kind::Unreadable(why) => {
            warn(watch, &entry.path, format!("cannot be read: {why}"), "give lifeboat's user read permission");
            list(&mut taken.unreadable, &entry.path);
        }
    }
    Ok(())
}

fn list(names: &mut Vec<String>, name: &str) {
    if names.len() < LISTED {
        names.push(name.to_owned());
    }
}

/// What became of one file.
pub enum Outcome {
    Stored,
    /// Not there (any more).
    Gone,
    /// Could not be read; it was said.
    Unreadable,
}

/// Stores one attachment's file. One with the wrong content is stored as it is, marked, and never restored by name.
///
/// # Errors
/// Of the set's writer only; what is wrong with the file is said through `watch`.
pub fn take_file(
    set: &mut SetWriter,
    store: &Filestore,
    name: &FileName,
    taken: &mut FilesTaken,
    watch: &dyn Watch,
) -> Result<Outcome, Failure> {
    let mut reading = match store.read(name) {
        Ok(reading) => reading,
        Err(ScanError::Missing { .. }) => return Ok(Outcome::Gone),
        Err(error) => {
            warn(watch, name.to_string(), format!("cannot be read: {error}"), "give lifeboat's user read permission");
            list(&mut taken.unreadable, &name.to_string());
            return Ok(Outcome::Unreadable);
        }
    };
    set.start_file(FileMeta { path: name.to_string(), mode: 0o640, ..FileMeta::default() })?;
    let mut tags = BTreeMap::new();
    loop {
        let mut piece = BytesMut::zeroed(PIECE_BYTES.min(64 << 10));
        let mut have = 0;
        let broke = loop {
            if have == piece.len() && have < PIECE_BYTES {
                piece.resize((have * 4).min(PIECE_BYTES), 0);
            }
            match reading.read(&mut piece[have..]) {
                Ok(0) => break None,
                Ok(read) => have += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = broke {
            warn(watch, name.to_string(), format!("cannot be read to its end: {error}"), "check the filestore's disk");
            list(&mut taken.unreadable, &name.to_string());
            tags.insert("state".to_owned(), "unreadable".to_owned());
            break;
        }
        if have == 0 {
            break;
        }
        piece.truncate(have);
        set.piece(piece.freeze())?;
        watch.advance(have as u64);
        if have < PIECE_BYTES {
            break;
        }
    }
    let outcome = reading.finish();
    let right = outcome.sha1 == name.0 && tags.is_empty();
    if !right && tags.is_empty() {
        let sha1 = hex::encode(outcome.sha1);
        warn(
            watch,
            name.to_string(),
            format!("has {} bytes with the SHA-1 {sha1}: the live filestore is damaged there", outcome.bytes),
            "restore this file from an earlier point; Odoo refuses to store the document again while it is there",
        );
        list(&mut taken.mismatched, &name.to_string());
        tags.insert("state".to_owned(), "mismatch".to_owned());
        tags.insert("sha1".to_owned(), sha1);
    }
    set.end_file(tags)?;
    taken.files += 1;
    taken.bytes += outcome.bytes;
    Ok(if right { Outcome::Stored } else { Outcome::Unreadable })
}
