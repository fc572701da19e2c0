//! Whose a record is, as a pure function with reasons.
//!
//! Any record with block references belongs to the owner of the blocks, and all must agree. A record without
//! says it in its main data, by the tables of [`super::version`]. What no rule covers is nobody's: unknown, with
//! the reason, and never a guess.

use std::ops::Range;

use super::record::{self, Header, Malformed, u32_at};
use super::stub::{self, Stub};
use super::version::{Content, Version};
use super::{Owner, Slot};
use crate::ids::DbOid;

/// What happens to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Stays in the cluster's part as it is.
    Shared,
    /// All of it is one tenant's; the cluster gets a no-op.
    Tenant(Slot),
    /// The cluster gets this main data instead, somebody keeps the original.
    Stub { main: Vec<u8>, main_at: Range<usize>, original: Keeper },
    /// Elements of several owners: ranges of the record that are a tenant's, ascending. The rest is the cluster's.
    Mixed(Vec<(Range<usize>, Slot)>),
    /// Nobody can say; the cluster gets a no-op, quarantine the record.
    Unknown(Reason),
}

/// Who gets the original of a record that was rewritten for the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    Tenant(Slot),
    /// Replay of nobody needs it: only stray bytes differ.
    Residue,
    Quarantine(Reason),
}

/// Why a record is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    #[error("its parts do not add up")]
    Malformed,
    #[error("it refers to blocks of several owners")]
    BlocksOfSeveral,
    #[error("it holds entries of several tenants")]
    EntriesOfSeveral,
    #[error("it holds a name of an unknown session")]
    UnknownSession,
    #[error("no rule covers this kind of record")]
    NoRule,
}

impl From<Malformed> for Reason {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// A database that a record makes or removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseChange {
    /// `source` when it is made by copying another database's files; `tablespaces` are the new one's and the source's.
    Created { db: DbOid, source: Option<DbOid>, tablespaces: (u32, u32) },
    /// `tablespace` when it goes away in one tablespace only.
    Dropped { db: DbOid, tablespace: Option<u32> },
}

/// What a record without block references holds, and where its main data lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The owner of all its blocks, if it has any.
    pub blocks: Option<Result<Owner, Reason>>,
    pub main_at: Range<usize>,
}

/// Reads a record's fragments and the owner of its blocks.
///
/// # Errors
/// [`Reason::Malformed`].
pub fn blocks(record: &[u8], version: &Version, mut who: impl FnMut(DbOid) -> Owner) -> Result<Parsed, Reason> {
    let mut owner: Option<Result<Owner, Reason>> = None;
    let main_at = record::parse(record, version, |block| {
        let this = who(block.db);
        owner = Some(match owner {
            None => Ok(this),
            Some(Ok(other)) if other == this => Ok(this),
            Some(_) => Err(Reason::BlocksOfSeveral),
        });
    })?;
    Ok(Parsed { blocks: owner, main_at })
}

/// The database that a record without block references makes or removes.
#[must_use]
pub fn database_change(version: &Version, header: &Header, main: &[u8]) -> Option<DatabaseChange> {
    let db = DbOid(u32_at(main, 0)?);
    match version.content(header.rmgr, header.info)? {
        Content::CreateByCopy => {
            let tablespaces = (u32_at(main, 4)?, u32_at(main, 12)?);
            Some(DatabaseChange::Created { db, source: Some(DbOid(u32_at(main, 8)?)), tablespaces })
        }
        Content::CreateByLog => {
            let tablespace = u32_at(main, 4)?;
            Some(DatabaseChange::Created { db, source: None, tablespaces: (tablespace, tablespace) })
        }
        Content::Drop => {
            let tablespace = (u32_at(main, 4)? == 1).then(|| u32_at(main, 8)).flatten();
            Some(DatabaseChange::Dropped { db, tablespace })
        }
        _ => None,
    }
}

/// What happens to a whole record.
pub fn verdict(
    version: &Version,
    header: &Header,
    record: &[u8],
    parsed: &Parsed,
    mut who: impl FnMut(DbOid) -> Owner,
) -> Verdict {
    match parsed.blocks {
        Some(Ok(owner)) => return whole(owner),
        Some(Err(reason)) => return Verdict::Unknown(reason),
        None => {}
    }
    let main_at = parsed.main_at.clone();
    let main = record.get(main_at.clone()).unwrap_or_default();
    let Some(content) = version.content(header.rmgr, header.info) else {
        return Verdict::Unknown(Reason::NoRule);
    };
    let database = |at| u32_at(main, at).ok_or(Reason::Malformed).map(DbOid);
    let outcome = match content {
        Content::Shared | Content::RestorePoint | Content::Tablespace => Ok(Verdict::Shared),
        Content::Database(at) => database(at).map(|db| whole(who(db))),
        Content::CreateByCopy | Content::CreateByLog | Content::Drop => database(0).map(|db| whole(who(db))),
        Content::Commit | Content::Abort => {
            stub::transaction(main, header.info, content == Content::Commit, version, who)
                .map(|stub| stubbed(stub, main, main_at, Reason::UnknownSession))
                .map_err(Reason::from)
        }
        Content::TransactionInvalidations => stub::transaction_invalidations(main, who)
            .map(|stub| if stub.tenants.is_empty() { stray(stub, main, main_at) } else { only_tenants(&stub) })
            .map_err(Reason::from),
        Content::StandbyInvalidations => stub::standby_invalidations(main, who)
            .map(|stub| {
                let nothing_left = stub.kept == 0 && !stub.tenants.is_empty();
                if nothing_left { only_tenants(&stub) } else { stubbed(stub, main, main_at, Reason::Malformed) }
            })
            .map_err(Reason::from),
        Content::Locks => locks(main, main_at.start, who),
    };
    outcome.unwrap_or_else(Verdict::Unknown)
}

fn whole(owner: Owner) -> Verdict {
    match owner {
        Owner::Cluster => Verdict::Shared,
        Owner::Tenant(slot) => Verdict::Tenant(slot),
    }
}

/// A record that keeps its function for everybody: rewritten only when something was taken out.
fn stubbed(stub: Stub, main: &[u8], main_at: Range<usize>, no_tenant: Reason) -> Verdict {
    if stub.main == main {
        return Verdict::Shared;
    }
    let mut tenants = stub.tenants.iter();
    let original = match (tenants.next(), tenants.next()) {
        (Some(slot), None) => Keeper::Tenant(*slot),
        (Some(_), Some(_)) => Keeper::Quarantine(Reason::EntriesOfSeveral),
        (None, _) => Keeper::Quarantine(no_tenant),
    };
    Verdict::Stub { main: stub.main, main_at, original }
}

/// A record of the cluster's whose padding may be a tenant's stack.
fn stray(stub: Stub, main: &[u8], main_at: Range<usize>) -> Verdict {
    if stub.main == main {
        return Verdict::Shared;
    }
    Verdict::Stub { main: stub.main, main_at, original: Keeper::Residue }
}

/// A record that nobody but the tenants in it needs.
fn only_tenants(stub: &Stub) -> Verdict {
    let mut tenants = stub.tenants.iter();
    match (tenants.next(), tenants.next()) {
        (Some(slot), None) => Verdict::Tenant(*slot),
        _ => Verdict::Unknown(Reason::EntriesOfSeveral),
    }
}

/// `xl_standby_locks`: a count, then entries of transaction id, database and relation, 4 bytes each. Replay
/// ignores an entry whose transaction id is zero, so a masked one is all zeros.
fn locks(main: &[u8], main_from: usize, mut who: impl FnMut(DbOid) -> Owner) -> Result<Verdict, Reason> {
    const ENTRY_BYTES: usize = 12;
    let count = u32_at(main, 0).ok_or(Reason::Malformed)? as usize;
    let entries = main.get(4..).unwrap_or_default();
    if count.checked_mul(ENTRY_BYTES) != Some(entries.len()) {
        return Err(Reason::Malformed);
    }
    let mut owners = Vec::with_capacity(count);
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        owners.push(who(DbOid(u32_at(entry, 4).ok_or(Reason::Malformed)?)));
    }
    match owners.first() {
        None => return Ok(Verdict::Shared),
        Some(first) if owners.iter().all(|owner| owner == first) => return Ok(whole(*first)),
        Some(_) => {}
    }
    let mut ranges: Vec<(Range<usize>, Slot)> = Vec::new();
    for (n, owner) in owners.iter().enumerate() {
        let Owner::Tenant(slot) = *owner else { continue };
        let from = main_from + 4 + n * ENTRY_BYTES;
        match ranges.last_mut() {
            Some((range, last)) if *last == slot && range.end == from => range.end = from + ENTRY_BYTES,
            _ => ranges.push((from..from + ENTRY_BYTES, slot)),
        }
    }
    Ok(Verdict::Mixed(ranges))
}
