//! What is left of a commit, an abort or a list of invalidations when tenants' entries are taken out.
//!
//! A commit can never become a no-op: everybody's replay needs its transaction ids and its time. So the cluster
//! gets the same record with a shorter main data, filled up with zeros (replay parses by flags and ignores the
//! tail), and the tenant gets the original. Kept: time, flags, the session's database, sub-transactions,
//! two-phase id, origin, entries of shared catalogs. Taken out: relations, statistics and invalidations of
//! tenants (the hashes in them would be oracles for names), the two-phase name (gid). Padding inside kept
//! entries is whatever lay on the session's stack, so it is zeroed.
//!
//! Layouts: `access/xact.h`, `storage/sinval.h`, `storage/standbydefs.h`; parsing as in `xactdesc.c`.

use std::collections::BTreeSet;

use super::record::{Malformed, u32_at};
use super::version::Version;
use super::{Owner, Slot};
use crate::ids::DbOid;

/// A main data without tenants' entries, as long as the original, and whose entries were there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    pub main: Vec<u8>,
    /// The tenants whose session or entries these are.
    pub tenants: BTreeSet<Slot>,
    /// Entries that stay. Only counted for lists of invalidations.
    pub kept: usize,
}

const HAS_INFO: u8 = 0x80;
const HAS_DATABASE: u32 = 1;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_ORIGIN: u32 = 1 << 5;
const HAS_GID: u32 = 1 << 7;
const HAS_STATISTICS: u32 = 1 << 8;

const INVALIDATION_BYTES: usize = 16;
const RELATION_BYTES: usize = 12;

/// Copies what stays from a main data to its stub.
struct Copier<'a, F> {
    rest: &'a [u8],
    out: Vec<u8>,
    who: F,
    tenants: BTreeSet<Slot>,
    session: Option<Owner>,
}

impl<'a, F: FnMut(DbOid) -> Owner> Copier<'a, F> {
    fn new(main: &'a [u8], who: F) -> Self {
        Self { rest: main, out: Vec::with_capacity(main.len()), who, tenants: BTreeSet::new(), session: None }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or(Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    fn keep(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let head = self.take(bytes)?;
        self.out.extend_from_slice(head);
        Ok(head)
    }

    fn take_u32(&mut self) -> Result<u32, Malformed> {
        u32_at(self.take(4)?, 0).ok_or(Malformed)
    }

    /// Reads a count and as many entries, keeps those that `edit` returns, and says how many.
    fn list(
        &mut self,
        entry_bytes: usize,
        mut edit: impl FnMut(&mut Self, &'a [u8]) -> Result<Option<Vec<u8>>, Malformed>,
    ) -> Result<usize, Malformed> {
        let count = self.take_u32()? as usize;
        let entries = self.take(count.checked_mul(entry_bytes).ok_or(Malformed)?)?;
        let count_at = self.out.len();
        self.out.extend([0; 4]);
        let mut kept = 0_u32;
        for entry in entries.chunks_exact(entry_bytes) {
            if let Some(entry) = edit(self, entry)? {
                self.out.extend(entry);
                kept += 1;
            }
        }
        if kept == 0 {
            self.out.truncate(count_at);
        } else if let Some(field) = self.out.get_mut(count_at..count_at + 4) {
            field.copy_from_slice(&kept.to_le_bytes());
        }
        Ok(kept as usize)
    }

    /// The entry, when `db` is the cluster's; else its tenant is noted.
    fn of_cluster(&mut self, db: u32, entry: &[u8]) -> Option<Vec<u8>> {
        match (self.who)(DbOid(db)) {
            Owner::Cluster => Some(entry.to_vec()),
            Owner::Tenant(slot) => {
                self.tenants.insert(slot);
                None
            }
        }
    }

    fn relations(&mut self) -> Result<usize, Malformed> {
        self.list(RELATION_BYTES, |me, entry| Ok(me.of_cluster(u32_at(entry, 4).ok_or(Malformed)?, entry)))
    }

    /// Statistics: kind, database, object. `DROP DATABASE` leaves one with object 0: it says nothing but the OID
    /// of a database, and the commit runs in another database than the one it names, so it stays as it is.
    fn statistics(&mut self, entry_bytes: usize) -> Result<usize, Malformed> {
        self.list(entry_bytes, |me, entry| {
            let object = entry.get(8..).ok_or(Malformed)?;
            if object.iter().all(|byte| *byte == 0) {
                return Ok(Some(entry.to_vec()));
            }
            Ok(me.of_cluster(u32_at(entry, 4).ok_or(Malformed)?, entry))
        })
    }

    /// Invalidations; zeroes padding where the session may have been a tenant's.
    fn invalidations(&mut self) -> Result<usize, Malformed> {
        let clean = self.session != Some(Owner::Cluster);
        self.list(INVALIDATION_BYTES, |me, entry| {
            let (db, padding) = invalidation(entry)?;
            let mut kept = me.of_cluster(db, entry);
            for range in padding.iter().filter(|_| clean) {
                if let Some(bytes) = kept.as_mut().and_then(|kept| kept.get_mut(range.0..range.1)) {
                    bytes.fill(0);
                }
            }
            Ok(kept)
        })
    }

    fn session(&mut self, db: u32) {
        let owner = (self.who)(DbOid(db));
        self.session = Some(owner);
        if let Owner::Tenant(slot) = owner {
            self.tenants.insert(slot);
        }
    }

    fn finish(mut self, main: &[u8], kept: usize) -> Result<Stub, Malformed> {
        if !self.rest.is_empty() {
            return Err(Malformed);
        }
        self.out.resize(main.len(), 0);
        Ok(Stub { main: self.out, tenants: self.tenants, kept })
    }
}

/// Ranges of an entry that mean nothing.
type Padding = &'static [(usize, usize)];

/// The database an invalidation is for, and its padding.
fn invalidation(entry: &[u8]) -> Result<(u32, Padding), Malformed> {
    let (at, padding): (usize, Padding) = match entry.first().map(|id| *id as i8) {
        Some(0.. | -1 | -2 | -5) => (4, &[(1, 4), (12, 16)]), // catcache, catalog, relcache, snapshot
        Some(-3) => (8, &[]),                                 // storage manager: locator at 4
        Some(-4) => (4, &[(1, 4), (8, 16)]),                  // relation map
        _ => return Err(Malformed),
    };
    Ok((u32_at(entry, at).ok_or(Malformed)?, padding))
}

/// Takes tenants' entries out of a commit's or an abort's main data. `info` is the record's.
///
/// # Errors
/// [`Malformed`] when the flags do not account for every byte.
pub fn transaction(
    main: &[u8],
    info: u8,
    is_commit: bool,
    version: &Version,
    who: impl FnMut(DbOid) -> Owner,
) -> Result<Stub, Malformed> {
    let mut copier = Copier::new(main, who);
    copier.keep(8)?;
    if info & HAS_INFO == 0 {
        return copier.finish(main, 0);
    }
    let flags_at = copier.out.len();
    let mut flags = u32_at(copier.keep(4)?, 0).ok_or(Malformed)?;
    if flags & HAS_DATABASE != 0 {
        let database = copier.keep(8)?;
        copier.session(u32_at(database, 0).ok_or(Malformed)?);
    }
    if flags & HAS_SUBTRANSACTIONS != 0 && copier.list(4, |_, entry| Ok(Some(entry.to_vec())))? == 0 {
        flags &= !HAS_SUBTRANSACTIONS;
    }
    if flags & HAS_RELATIONS != 0 && copier.relations()? == 0 {
        flags &= !HAS_RELATIONS;
    }
    if flags & HAS_STATISTICS != 0 && copier.statistics(version.dropped_stats_bytes)? == 0 {
        flags &= !HAS_STATISTICS;
    }
    if is_commit && flags & HAS_INVALIDATIONS != 0 && copier.invalidations()? == 0 {
        flags &= !HAS_INVALIDATIONS;
    }
    if flags & HAS_TWO_PHASE != 0 {
        copier.keep(4)?;
        if flags & HAS_GID != 0 {
            let text = copier.rest.iter().position(|byte| *byte == 0).ok_or(Malformed)? + 1;
            if copier.session == Some(Owner::Cluster) {
                copier.keep(text)?;
            } else {
                copier.take(text)?;
                flags &= !HAS_GID;
            }
        }
    }
    if flags & HAS_ORIGIN != 0 {
        copier.keep(16)?;
    }
    if let Some(field) = copier.out.get_mut(flags_at..flags_at + 4) {
        field.copy_from_slice(&flags.to_le_bytes());
    }
    copier.finish(main, 0)
}

/// Takes tenants' entries out of an `xl_invalidations`: database, tablespace, flag and 3 bytes of padding, a list.
///
/// # Errors
/// [`Malformed`] when the list does not fill the main data exactly.
pub fn standby_invalidations(main: &[u8], who: impl FnMut(DbOid) -> Owner) -> Result<Stub, Malformed> {
    let mut copier = Copier::new(main, who);
    let head = copier.keep(12)?;
    copier.session(u32_at(head, 0).ok_or(Malformed)?);
    if copier.session != Some(Owner::Cluster) {
        copier.out.truncate(9);
        copier.out.extend([0; 3]);
    }
    let kept = copier.invalidations()?;
    copier.finish(main, kept)
}

/// Takes tenants' entries out of an `xl_xact_invals`: a list, and nothing about the session.
///
/// # Errors
/// [`Malformed`] when the list does not fill the main data exactly.
pub fn transaction_invalidations(main: &[u8], who: impl FnMut(DbOid) -> Owner) -> Result<Stub, Malformed> {
    let mut copier = Copier::new(main, who);
    let kept = copier.invalidations()?;
    copier.finish(main, kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: u32 = 16_384;
    const B: u32 = 16_385;

    fn who(db: DbOid) -> Owner {
        if db.0 < A { Owner::Cluster } else { Owner::Tenant(db.0 - A) }
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn commit(main: &[u8]) -> Stub {
        transaction(main, HAS_INFO, true, Version::of_major(15).unwrap(), who).unwrap()
    }

    /// Everything a commit can carry, by a session in `session`.
    fn full(session: u32, relation_of: u32) -> Vec<u8> {
        let mut main = vec![1; 8];
        main.extend(words(&[0b1_1011_1111, session, 1663]));
        main.extend(words(&[2, 901, 902])); // subtransactions
        main.extend(words(&[2, 1663, relation_of, 77, 1664, 0, 78])); // relations
        main.extend(words(&[2, 1, B, 0, 2, relation_of, 79])); // statistics
        main.extend(words(&[2, 0x00CC_CC07, relation_of, 0xDEAD, 0xCCCC, 0x00CC_CC08, 0, 0xBEEF, 0xCCCC])); // invalidations
        main.extend(words(&[903]));
        main.extend(b"a secret name\0");
        main.extend([5; 16]);
        main
    }

    #[test]
    fn a_commit_keeps_what_replay_of_everybody_needs_and_nothing_else() {
        let main = full(A, A);
        let stub = commit(&main);
        let mut expected = vec![1; 8];
        expected.extend(words(&[0b1_0011_1111, A, 1663, 2, 901, 902]));
        expected.extend(words(&[1, 1664, 0, 78]));
        expected.extend(words(&[1, 1, B, 0]));
        expected.extend(words(&[1, 0x08, 0, 0xBEEF, 0]));
        expected.extend(words(&[903]));
        expected.extend([5; 16]);
        expected.resize(main.len(), 0);
        assert_eq!(stub.main, expected);
        assert_eq!(stub.tenants, BTreeSet::from([0]));
        // what is left parses again, and loses nothing more
        let tail = stub.main.len() - (8 + 4 + 8 + 12 + 16 + 16 + 20 + 4 + 16);
        assert_eq!(commit(&stub.main[..stub.main.len() - tail]).main, &stub.main[..stub.main.len() - tail]);
    }

    #[test]
    fn a_commit_of_a_shared_database_keeps_its_own_name_and_padding() {
        let main = full(5, 5);
        assert_eq!(commit(&main).main, main);
    }

    #[test]
    fn entries_of_a_tenant_in_a_shared_session_are_that_tenants() {
        let stub = commit(&full(5, B));
        assert_eq!(stub.tenants, BTreeSet::from([1]));
    }

    #[test]
    fn entries_of_two_tenants_are_both_named() {
        assert_eq!(commit(&full(A, B)).tenants, BTreeSet::from([0, 1]));
    }

    #[test]
    fn a_commit_that_is_cut_or_too_long_is_malformed() {
        let main = full(A, A);
        let version = Version::of_major(15).unwrap();
        for cut in 0..main.len() {
            assert_eq!(transaction(&main[..cut], HAS_INFO, true, version, who), Err(Malformed), "{cut}");
        }
        let long = [&main[..], &[0]].concat();
        assert_eq!(transaction(&long, HAS_INFO, true, version, who), Err(Malformed));
    }

    #[test]
    fn a_count_that_promises_more_than_there_is_is_malformed() {
        let mut main = vec![1; 8];
        main.extend(words(&[HAS_SUBTRANSACTIONS, u32::MAX]));
        let version = Version::of_major(15).unwrap();
        assert_eq!(transaction(&main, HAS_INFO, true, version, who), Err(Malformed));
        assert_eq!(transaction_invalidations(&words(&[u32::MAX, 1]), who), Err(Malformed));
    }

    #[test]
    fn invalidations_of_shared_catalogs_stay_without_their_padding() {
        let mut main = words(&[A, 1663]);
        main.extend([1, 9, 9, 9]);
        main.extend(words(&[2, 0x00CC_CC07, A, 1, 2, 0x00CC_CCFE, 0, 1262, 0xCCCC]));
        let stub = standby_invalidations(&main, who).unwrap();
        let mut expected = words(&[A, 1663, 1, 1, 0xFE, 0, 1262, 0]);
        expected.resize(main.len(), 0);
        assert_eq!((stub.main, stub.kept), (expected, 1));
    }
}
