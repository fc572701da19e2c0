//! WAL as a server of two tenants would write it, made by hand and split by the splitter.

use jiff::Timestamp;
use lifeboat::ids::{DbOid, Lsn, SystemId, Timeline};
use lifeboat::postgres::wal::page::{CONTINUES, PAGE_BYTES, PageHeader};
use lifeboat::postgres::wal::version::Version;
use lifeboat::postgres::wal::{Geometry, Owner, Owners, Split, Splitter, Start, record};

pub const SYSTEM: SystemId = SystemId(77);
pub const TIMELINE: Timeline = Timeline(1);
pub const SEGMENT_BYTES: u32 = 1 << 20;
/// acme's database, and globex's.
pub const ACME: DbOid = DbOid(16_384);
pub const GLOBEX: DbOid = DbOid(16_385);

/// What the server has written, and what of it was taken.
pub struct Server {
    geometry: Geometry,
    pub from: Lsn,
    pub bytes: Vec<u8>,
    previous: Lsn,
    fed: usize,
    splitter: Splitter<ByOid>,
}

struct ByOid;

impl Owners for ByOid {
    fn owner(&mut self, db: DbOid, _at: Lsn) -> Owner {
        if db.0 < ACME.0 { Owner::Cluster } else { Owner::Tenant(db.0 - ACME.0) }
    }
    fn created(&mut self, _db: DbOid, _at: Lsn) {}
    fn dropped(&mut self, _db: DbOid, _at: Lsn) {}
}

impl Server {
    pub fn new() -> Self {
        let version = Version::of_major(15).unwrap();
        let (from, system_id) = (Lsn(u64::from(SEGMENT_BYTES) * 5), Some(SYSTEM));
        let geometry = Geometry { version, segment_bytes: SEGMENT_BYTES, timeline: TIMELINE, system_id };
        let start = Start {
            at: from,
            record_aligned: true,
            previous_record: None,
            system_id,
            timeline: TIMELINE,
            segment_bytes: SEGMENT_BYTES,
            version,
        };
        let splitter = Splitter::new(start, ByOid).unwrap();
        Self { geometry, from, bytes: Vec::new(), previous: Lsn(8), fed: 0, splitter }
    }

    pub fn at(&self) -> Lsn {
        self.from.plus(self.bytes.len() as u64)
    }

    /// A row of a database, with this content.
    pub fn insert(&mut self, db: DbOid, data: &[u8]) {
        // Heap insert, one block reference (`access/xlogrecord.h`): id, flags, length, then where the block lies.
        for data in data.chunks(u16::MAX.into()) {
            let mut body = vec![0, 0x20];
            body.extend((data.len() as u16).to_le_bytes());
            for number in [1663, db.0, 2619, 7] {
                body.extend(u32::to_le_bytes(number));
            }
            body.extend([255, 3]);
            body.extend(data);
            body.extend([1, 2, 3]);
            self.push(10, 0x00, &body);
        }
    }

    /// A commit at `time`.
    pub fn commit(&mut self, time: Timestamp) {
        let micros = time.as_microsecond() - 946_684_800_000_000;
        let mut body = vec![255, 8];
        body.extend(micros.to_le_bytes());
        self.push(1, 0x00, &body);
    }

    /// What was written since the last time, split.
    pub fn take(&mut self) -> Split {
        let at = self.from.plus(self.fed as u64);
        self.splitter.feed(at, &self.bytes[self.fed..]).unwrap();
        self.fed = self.bytes.len();
        assert_eq!(self.splitter.ended(), None);
        self.splitter.take().unwrap()
    }

    /// What the server sends again to whoever begins at `at`.
    pub fn again(&self, at: Lsn, previous_record: Option<Lsn>) -> Option<Split> {
        let start = Start {
            at,
            record_aligned: true,
            previous_record,
            system_id: Some(SYSTEM),
            timeline: TIMELINE,
            segment_bytes: SEGMENT_BYTES,
            version: self.geometry.version,
        };
        let mut splitter = Splitter::new(start, ByOid).unwrap();
        splitter.feed(at, &self.bytes[at.since(self.from) as usize..]).unwrap();
        splitter.take()
    }

    fn page(&mut self, flags: u16, rest_bytes: u32) {
        let header = self.geometry.write(self.at(), PageHeader { flags, rest_bytes });
        self.bytes.extend(header);
    }

    fn push(&mut self, rmgr: u8, info: u8, body: &[u8]) {
        if self.at().0.is_multiple_of(PAGE_BYTES) {
            self.page(0, 0);
        }
        let start = self.at();
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(700_u32.to_le_bytes());
        record.extend(self.previous.0.to_le_bytes());
        record.extend([info, rmgr, 0, 0, 0, 0, 0, 0]);
        record.extend(body);
        record::seal(&mut record);
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            if self.at().0.is_multiple_of(PAGE_BYTES) {
                self.page(CONTINUES, rest.len() as u32);
            }
            let room = (PAGE_BYTES - self.at().0 % PAGE_BYTES) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start;
    }
}
