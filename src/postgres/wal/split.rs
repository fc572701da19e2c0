//! The splitter: a stream of WAL bytes in, stretches of parts out.
//!
//! One buffer holds what has come. Records at its front are read as soon as they are whole; a tenant's record is
//! copied to the tenant's part and overwritten in the buffer, so that what lies before `position` is the
//! cluster's part and what lies behind is untouched original. [`Splitter::take`] cuts the front off.
//!
//! ```text
//! from ......... position ........ fed_to
//!  cluster's part | pending original
//! ```
//! Invariant: the outcome depends on the bytes, not on how they were cut into calls of [`Splitter::feed`].
//! When valid WAL ends, nothing behind is looked at: it is handed back by [`Splitter::finish`]. In a live stream
//! that is a fault ([`Splitter::ended`]) and must not be acknowledged.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::BytesMut;

use super::commits::Commits;
use super::cursor::{self, Place, Previous, Step, Window};
use super::error::End;
use super::extent::{Extent, Part};
use super::notice::{self, Event, Notice};
use super::owner::{self, Keeper, Verdict};
use super::page::{CONTINUES, Geometry, PAGE_BYTES};
use super::record::{self, CRC_AT, HEADER_BYTES};
use super::shares::{Shares, lay};
use super::version::{Content, Version};
use super::{Owner, Owners, Slot, WalError};
use crate::ids::{DbOid, Lsn, SystemId, Timeline};

/// How much of an aborted record stays in the cluster's part: length, transaction and predecessor, by which
/// replay steps over it.
const ABORTED_KEEPS: u64 = 16;

/// Where and in what WAL a splitter begins.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub at: Lsn,
    /// `at` is the end of a record (or the start of one). Otherwise everything up to the first record that
    /// begins on a page which says so is residue.
    pub record_aligned: bool,
    /// The start of the record before `at`, where it is known: the first record must name it.
    pub previous_record: Option<Lsn>,
    pub system_id: Option<SystemId>,
    pub timeline: Timeline,
    /// `wal_segment_size`.
    pub segment_bytes: u32,
    /// The server's: a stream may begin in the middle of a page, before any magic.
    pub version: &'static Version,
}

/// One stretch of WAL, split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub from: Lsn,
    pub to: Lsn,
    /// The start of the last record up to `to`: [`Start::previous_record`] of what follows.
    pub last_record: Lsn,
    /// One extent, `[from, to)`: valid WAL by itself.
    pub cluster: Part,
    pub tenants: BTreeMap<Slot, Part>,
    pub residue: Part,
    pub quarantine: Part,
    /// The records in quarantine: start and end. Not empty: a restore past the first is refused without that part.
    pub quarantined: Vec<(Lsn, Lsn)>,
    pub records: u64,
    pub commits: Commits,
    pub notices: Vec<Notice>,
}

/// What came behind the last complete record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    pub at: Lsn,
    /// Nobody knows whose: to be sealed as residue.
    pub bytes: bytes::Bytes,
    /// Why it is no record; none when the bytes just stop.
    pub ended: Option<End>,
}

/// Splits one timeline's WAL.
pub struct Splitter<O> {
    geometry: Geometry,
    owners: O,
    buffer: Buffer,
    position: Lsn,
    /// Nothing new can be said before the bytes up to here have come.
    need: Lsn,
    previous: Option<Lsn>,
    seeking: bool,
    ended: Option<End>,
    /// The database looked up last, and its owner.
    cached: Option<(DbOid, Owner)>,
    /// Databases being moved to another tablespace, and from which.
    moving: BTreeMap<DbOid, u32>,
    scratch: Vec<u8>,
    shares: Shares,
}

/// The bytes from `from` on.
struct Buffer {
    from: Lsn,
    bytes: BytesMut,
}

impl Buffer {
    fn end(&self) -> Lsn {
        self.from.plus(self.bytes.len() as u64)
    }
    fn window(&self) -> Window<'_> {
        Window { from: self.from, bytes: &self.bytes }
    }
    fn get(&self, from: Lsn, to: Lsn) -> &[u8] {
        self.window().get(from, to.since(from)).unwrap_or_default()
    }
    fn get_mut(&mut self, from: Lsn, to: Lsn) -> &mut [u8] {
        let range = from.since(self.from) as usize..to.since(self.from) as usize;
        self.bytes.get_mut(range).unwrap_or_default()
    }
}

impl<O: Owners> Splitter<O> {
    /// # Errors
    /// When the segment size is impossible, or a record-aligned start is not where a record can begin or end.
    pub fn new(start: Start, owners: O) -> Result<Self, WalError> {
        let geometry = Geometry {
            version: start.version,
            segment_bytes: start.segment_bytes,
            timeline: start.timeline,
            system_id: start.system_id,
        };
        geometry.check_sizes()?;
        let at = if start.record_aligned { start.at } else { super::page::page_of(start.at) };
        if !geometry.is_boundary(at) {
            return Err(WalError::Misaligned { at: start.at });
        }
        Ok(Self {
            geometry,
            owners,
            buffer: Buffer { from: start.at, bytes: BytesMut::new() },
            position: start.at,
            need: start.at,
            previous: start.previous_record.filter(|_| start.record_aligned),
            seeking: !start.record_aligned,
            ended: None,
            cached: None,
            moving: BTreeMap::new(),
            scratch: Vec::new(),
            shares: Shares::default(),
        })
    }

    /// Takes the bytes at `at`, which must be where the last call stopped. Any size.
    ///
    /// # Errors
    /// A gap or an overlap (nothing is taken); WAL of another version, timeline, system or segment size.
    pub fn feed(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        let expected = self.buffer.end();
        if at != expected {
            return Err(WalError::NotContiguous { expected, got: at });
        }
        self.buffer.bytes.extend_from_slice(bytes);
        while self.ended.is_none() && self.buffer.end() >= self.need {
            self.advance()?;
        }
        Ok(())
    }

    /// The end of the last complete record, padding included; after a switch the next segment's start.
    #[must_use]
    pub fn complete_to(&self) -> Lsn {
        // before the first record, nothing is complete: there is no stretch to store
        if self.previous.is_some() { self.position } else { self.buffer.from }
    }

    /// How many bytes wait for the rest of their record.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.buffer.end().since(self.complete_to())
    }

    /// Why valid WAL ended at [`Splitter::complete_to`], if it did. Whatever is fed after that only waits for
    /// [`Splitter::finish`].
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.ended
    }

    /// Who answers for databases.
    pub fn owners(&mut self) -> &mut O {
        self.cached = None;
        &mut self.owners
    }

    /// Everything complete since the last call; none when that is nothing.
    pub fn take(&mut self) -> Option<Split> {
        let last_record = self.previous.filter(|_| self.position > self.buffer.from)?;
        let (from, to) = (self.buffer.from, self.position);
        let bytes = self.buffer.bytes.split_to(to.since(from) as usize).freeze();
        self.buffer.from = to;
        self.cached = None;
        let shares = std::mem::take(&mut self.shares);
        Some(Split {
            from,
            to,
            last_record,
            cluster: Part { extents: vec![Extent { at: from, bytes }], mixed: shares.cluster_mixed },
            tenants: shares.tenants.into_iter().map(|(slot, part)| (slot, part.finish())).collect(),
            residue: shares.residue.finish(),
            quarantine: shares.quarantine.finish(),
            quarantined: shares.quarantined,
            records: shares.records,
            commits: shares.commits,
            notices: shares.notices,
        })
    }

    /// The last stretch, and what came behind it.
    pub fn finish(mut self) -> (Option<Split>, Tail) {
        let split = self.take();
        // what was set aside while no record had come yet is part of the tail
        for extent in self.shares.residue.finish().extents {
            let end = extent.end();
            self.buffer.get_mut(extent.at, end).copy_from_slice(&extent.bytes);
        }
        let tail = Tail { at: self.buffer.from, bytes: self.buffer.bytes.freeze(), ended: self.ended };
        (split, tail)
    }

    fn advance(&mut self) -> Result<(), WalError> {
        if self.seeking {
            return self.seek();
        }
        let previous = self.previous.map_or(Previous::Unknown, Previous::At);
        match cursor::step(&self.geometry, self.buffer.window(), self.position, previous, &mut self.scratch)? {
            Step::Need(until) => self.need = until,
            Step::End(end) => self.ended = Some(end),
            Step::Aborted { start, resume } => match self.first_whole_after(resume)? {
                Step::Need(until) => self.need = until,
                Step::End(end) => self.ended = Some(end),
                Step::Aborted { .. } | Step::Record(_) => self.abort(start, resume),
            },
            Step::Record(place) => {
                self.record(&place);
                self.shares.records += 1;
                self.previous = Some(place.start);
                self.position = place.next;
            }
        }
        Ok(())
    }

    /// What is behind one or more aborted records. Only when it is a record may they be left behind: a stretch
    /// must not end between an aborted record and the page that says so.
    fn first_whole_after(&mut self, resume: Lsn) -> Result<Step, WalError> {
        let previous = self.previous.map_or(Previous::Unknown, Previous::At);
        let mut at = resume;
        loop {
            match cursor::step(&self.geometry, self.buffer.window(), at, previous, &mut self.scratch)? {
                Step::Aborted { resume, .. } if resume > at => at = resume,
                other => return Ok(other),
            }
        }
    }

    /// Looks for the first page that says where a record begins (`XLogFindNextRecord`).
    fn seek(&mut self) -> Result<(), WalError> {
        let page = Lsn(self.position.0.next_multiple_of(PAGE_BYTES));
        let header = match cursor::page(&self.geometry, self.buffer.window(), page)? {
            cursor::Page::Need(until) => {
                self.need = until;
                return Ok(());
            }
            cursor::Page::End(end) => {
                self.ended = Some(end);
                return Ok(());
            }
            cursor::Page::Header(header) => header,
        };
        self.set_aside(self.position, page);
        let body = page.plus(self.geometry.header_bytes(page));
        let rest = if header.flags & CONTINUES != 0 { u64::from(header.rest_bytes).next_multiple_of(8) } else { 0 };
        let page_end = page.plus(PAGE_BYTES);
        let found = rest < page_end.since(body);
        let begins = if found { body.plus(rest) } else { page_end };
        if self.buffer.end() < begins {
            self.position = page;
            self.need = begins;
            return Ok(());
        }
        self.set_aside(body, begins);
        self.seeking = !found;
        // a page that begins with a record is left to the cursor, header and all
        self.position = if rest == 0 { page } else { begins };
        Ok(())
    }

    /// Moves bytes that no replay reads to residue.
    fn set_aside(&mut self, from: Lsn, to: Lsn) {
        self.shares.residue.push(from, self.buffer.get(from, to));
        self.buffer.get_mut(from, to).fill(0);
    }

    fn set_aside_unless_zero(&mut self, from: Lsn, to: Lsn) {
        if self.buffer.get(from, to).iter().any(|byte| *byte != 0) {
            self.set_aside(from, to);
        }
    }

    fn abort(&mut self, start: Lsn, resume: Lsn) {
        let mut keep = ABORTED_KEEPS;
        for (at, count) in self.geometry.pieces(start, resume.since(start)) {
            let kept = keep.min(count);
            keep -= kept;
            if at >= resume {
                break;
            }
            self.set_aside(at.plus(kept), at.plus(count).min(resume));
        }
        self.shares.notices.push(Notice::Aborted { at: start });
        self.position = resume;
    }

    fn record(&mut self, place: &Place) {
        let padding_end = Lsn(place.end.0.next_multiple_of(8));
        let clean = self.buffer.get(place.end, padding_end).iter().all(|byte| *byte == 0);
        // how far the record's owner may have the bytes behind it
        let covered = if clean { padding_end } else { place.end };
        match self.judge(place) {
            Verdict::Shared => {}
            Verdict::Tenant(slot) => {
                self.give(Keeper::Tenant(slot), place, covered);
                self.rewrite(place, record::make_noop);
            }
            Verdict::Stub { main, main_at, original } => {
                self.give(original, place, covered);
                self.rewrite(place, |whole| {
                    if let Some(field) = whole.get_mut(main_at) {
                        field.copy_from_slice(&main);
                    }
                    record::seal(whole);
                });
            }
            Verdict::Mixed(elements) => self.mix(place, &elements),
            Verdict::Unknown(reason) => {
                self.give(Keeper::Quarantine(reason), place, covered);
                self.rewrite(place, record::make_noop);
            }
        }
        self.tidy_behind(place, padding_end);
    }

    /// Whose the record is; tells the owners of databases that come and go, and notes commits and notices.
    fn judge(&mut self, place: &Place) -> Verdict {
        let (header, at, version) = (place.header, place.start, self.geometry.version);
        let window = Window { from: self.buffer.from, bytes: &self.buffer.bytes };
        let whole = if place.in_one_piece {
            window.get(place.start, u64::from(header.total_bytes)).unwrap_or_default()
        } else {
            &self.scratch
        };
        let (owners, cached) = (&mut self.owners, &mut self.cached);
        let parsed = owner::blocks(whole, version, |db| match *cached {
            Some((known, owner)) if known == db => owner,
            _ => {
                let owner = if db.0 == 0 { Owner::Cluster } else { owners.owner(db, at) };
                *cached = Some((db, owner));
                owner
            }
        });
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(reason) => return Verdict::Unknown(reason),
        };
        if parsed.blocks.is_some() {
            return owner::verdict(version, &header, whole, &parsed, |_| Owner::Cluster);
        }
        let main = whole.get(parsed.main_at.clone()).unwrap_or_default();
        self.shares.commits.note(version, &header, main);
        if version.content(header.rmgr, header.info) == Some(Content::Tablespace) {
            self.shares.notices.extend(notice::tablespace(main, at));
        }
        let event = owner::database_change(version, &header, main)
            .and_then(|change| notice::databases(&mut self.moving, &mut self.shares.notices, change, at));
        if let Some(Event::Created(db)) = event {
            owners.created(db, at);
        }
        let who = |db: DbOid| if db.0 == 0 { Owner::Cluster } else { owners.owner(db, at) };
        let verdict = owner::verdict(version, &header, whole, &parsed, who);
        if let Some(Event::Dropped(db)) = event {
            owners.dropped(db, at);
        }
        if event.is_some() {
            *cached = None;
        }
        verdict
    }

    /// Sets aside what is not zero between a record's end and the next one's start.
    fn tidy_behind(&mut self, place: &Place, padding_end: Lsn) {
        self.set_aside_unless_zero(place.end, padding_end);
        let mut at = padding_end;
        while at < place.next {
            let page_end = Lsn((at.0 + 1).next_multiple_of(PAGE_BYTES)).min(place.next);
            if at.0.is_multiple_of(PAGE_BYTES)
                && let Ok(cursor::Page::Header(_)) = cursor::page(&self.geometry, self.buffer.window(), at)
            {
                at = at.plus(self.geometry.header_bytes(at));
            }
            self.set_aside_unless_zero(at, page_end);
            at = page_end;
        }
    }

    /// Copies the original of a record to its keeper.
    fn give(&mut self, keeper: Keeper, place: &Place, covered: Lsn) {
        if let Keeper::Quarantine(reason) = keeper {
            self.shares.quarantined.push((place.start, place.next));
            let (rmgr, info) = (place.header.rmgr, place.header.info);
            self.shares.notices.push(Notice::Unknown { at: place.start, rmgr, info, reason });
        }
        let part = match keeper {
            Keeper::Tenant(slot) => self.shares.tenants.entry(slot).or_default(),
            Keeper::Residue => &mut self.shares.residue,
            Keeper::Quarantine(_) => &mut self.shares.quarantine,
        };
        // a run of one owner's records is one extent, page headers between them included
        let from = if part.end == self.position && !part.extents.is_empty() { self.position } else { place.start };
        part.push(from, self.buffer.get(from, covered));
    }

    /// Changes a record in the buffer, wherever pages cut it.
    fn rewrite(&mut self, place: &Place, change: impl FnOnce(&mut [u8])) {
        if place.in_one_piece {
            return change(self.buffer.get_mut(place.start, place.end));
        }
        change(&mut self.scratch);
        let mut rest = self.scratch.as_slice();
        for (at, count) in self.geometry.pieces(place.start, rest.len() as u64) {
            let (piece, behind) = rest.split_at_checked(count as usize).unwrap_or((rest, &[]));
            self.buffer.get_mut(at, at.plus(count)).copy_from_slice(piece);
            rest = behind;
        }
    }

    /// Gives every tenant its elements, and the CRC that the record has for the cluster and this tenant alone.
    fn mix(&mut self, place: &Place, elements: &[(Range<usize>, Slot)]) {
        let original = if place.in_one_piece {
            self.buffer.get(place.start, place.end).to_vec()
        } else {
            std::mem::take(&mut self.scratch)
        };
        let mut shared = original.clone();
        for (range, _) in elements {
            if let Some(element) = shared.get_mut(range.clone()) {
                element.fill(0);
            }
        }
        record::seal(&mut shared);
        let mut slots: Vec<Slot> = elements.iter().map(|(_, slot)| *slot).collect();
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            let mut theirs = shared.clone();
            let ranges = || elements.iter().filter(|(_, owner)| *owner == slot).map(|(range, _)| range.clone());
            for range in ranges() {
                if let (Some(to), Some(from)) = (theirs.get_mut(range.clone()), original.get(range)) {
                    to.copy_from_slice(from);
                }
            }
            record::seal(&mut theirs);
            let part = self.shares.tenants.entry(slot).or_default();
            part.mixed.push(place.start);
            for range in std::iter::once(CRC_AT..HEADER_BYTES).chain(ranges()) {
                lay(&self.geometry, part, place.start, &theirs, range);
            }
        }
        self.shares.cluster_mixed.push(place.start);
        self.scratch = original;
        self.rewrite(place, |whole| whole.copy_from_slice(&shared));
    }
}
