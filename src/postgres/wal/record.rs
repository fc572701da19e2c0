//! One WAL record, gathered into a single piece.
//!
//! 24 bytes of header: total length u32, transaction id u32, the previous record's LSN u64, info u8, resource
//! manager u8, 2 zero bytes, CRC-32C u32. Then fragment headers (block references, origin, top-level transaction,
//! main data's length), block data, and the main data last (`access/xlogrecord.h`, `xlogreader.c`
//! `DecodeXLogRecord`). The CRC covers everything after the header, then the header's first 20 bytes.

use std::ops::Range;

use super::version::Version;
use super::version::{INFO_NOOP, rmgr};
use crate::ids::{DbOid, Lsn};

/// `SizeOfXLogRecord`.
pub const HEADER_BYTES: usize = 24;
/// Where the CRC lies in the header.
pub const CRC_AT: usize = 20;
/// The size of a data page (`BLCKSZ`), which images are of.
const BLOCK_BYTES: u16 = 8192;

const ID_MAIN_SHORT: u8 = 255;
const ID_MAIN_LONG: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOP_LEVEL: u8 = 252;
const LAST_BLOCK_ID: u8 = 32;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// A record's header, without the CRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub total_bytes: u32,
    pub xid: u32,
    pub previous: Lsn,
    pub info: u8,
    pub rmgr: u8,
}

impl Header {
    /// Reads the header that `record` begins with; none when it is shorter than that.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        Some(Self {
            total_bytes: u32_at(record, 0)?,
            xid: u32_at(record, 4)?,
            previous: Lsn(u64_at(record, 8)?),
            info: *record.get(16)?,
            rmgr: *record.get(17)?,
        })
    }
}

/// A block that a record changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub tablespace: u32,
    pub db: DbOid,
    /// The relation's file number.
    pub relation: u32,
    pub block: u32,
}

/// A record whose fragments contradict its length or each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record's parts do not add up")]
pub struct Malformed;

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*head)
    }
    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }
    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }
}

/// Reads the fragment headers of a whole record, tells `each` of every block reference, and returns where the
/// main data lies.
///
/// # Errors
/// [`Malformed`] when the fragments do not fill the record exactly.
pub fn parse(record: &[u8], version: &Version, mut each: impl FnMut(Block)) -> Result<Range<usize>, Malformed> {
    let mut fields = Fields(record.get(HEADER_BYTES..).ok_or(Malformed)?);
    let (mut data_bytes, mut main_bytes) = (0_usize, 0_usize);
    let mut last_id = None;
    let mut relation = None;
    while fields.0.len() > data_bytes {
        match fields.u8()? {
            ID_MAIN_SHORT => main_bytes = usize::from(fields.u8()?),
            ID_MAIN_LONG => main_bytes = fields.u32()? as usize,
            ID_ORIGIN => {
                fields.u16()?;
                continue;
            }
            ID_TOP_LEVEL => {
                fields.u32()?;
                continue;
            }
            id @ 0..=LAST_BLOCK_ID if last_id.is_none_or(|last| id > last) => {
                last_id = Some(id);
                data_bytes += block(&mut fields, version, &mut relation, &mut each)?;
                continue;
            }
            _ => return Err(Malformed),
        }
        data_bytes = data_bytes.checked_add(main_bytes).ok_or(Malformed)?;
        break;
    }
    if fields.0.len() != data_bytes {
        return Err(Malformed);
    }
    Ok(record.len() - main_bytes..record.len())
}

/// Reads one block's header and returns how many bytes of data and image belong to it.
fn block(
    fields: &mut Fields<'_>,
    version: &Version,
    relation: &mut Option<(u32, DbOid, u32)>,
    each: &mut impl FnMut(Block),
) -> Result<usize, Malformed> {
    const HAS_IMAGE: u8 = 0x10;
    const HAS_DATA: u8 = 0x20;
    const SAME_RELATION: u8 = 0x80;
    let flags = fields.u8()?;
    let data = fields.u16()?;
    if (flags & HAS_DATA != 0) != (data > 0) {
        return Err(Malformed);
    }
    let mut bytes = usize::from(data);
    if flags & HAS_IMAGE != 0 {
        let image = fields.u16()?;
        let _hole_offset = fields.u16()?;
        let how = fields.u8()?;
        if how & version.image_compressed != 0 && how & version.image_has_hole != 0 {
            fields.u16()?;
        }
        if image > BLOCK_BYTES {
            return Err(Malformed);
        }
        bytes += usize::from(image);
    }
    if flags & SAME_RELATION == 0 {
        *relation = Some((fields.u32()?, DbOid(fields.u32()?), fields.u32()?));
    }
    let (tablespace, db, file) = relation.ok_or(Malformed)?;
    each(Block { tablespace, db, relation: file, block: fields.u32()? });
    Ok(bytes)
}

/// The CRC that a whole record should have.
#[must_use]
pub fn crc(record: &[u8]) -> u32 {
    let (header, body) = record.split_at(record.len().min(HEADER_BYTES));
    crc32c::crc32c_append(crc32c::crc32c(body), header.get(..CRC_AT).unwrap_or_default())
}

/// Whether a whole record has the CRC it should have.
#[must_use]
pub fn crc_is_right(record: &[u8]) -> bool {
    u32_at(record, CRC_AT) == Some(crc(record))
}

/// Writes the CRC that belongs to what the record now says.
pub fn seal(record: &mut [u8]) {
    let crc = crc(record);
    if let Some(field) = record.get_mut(CRC_AT..HEADER_BYTES) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Turns a record into a no-op of the same length, transaction and predecessor.
///
/// The transaction id stays because replay advances its next id from it. Needs a body of 0 or at least 2 bytes,
/// which every record that [`parse`] accepts has.
pub fn make_noop(record: &mut [u8]) {
    let Some(body) = record.len().checked_sub(HEADER_BYTES) else { return };
    if let Some(rest) = record.get_mut(16..) {
        rest.fill(0);
    }
    if let Some(kind) = record.get_mut(16..18) {
        kind.copy_from_slice(&[INFO_NOOP, rmgr::XLOG]);
    }
    let fragment = record.get_mut(HEADER_BYTES..).unwrap_or_default();
    if let (2..=257, [id, length, ..]) = (body, &mut *fragment) {
        *id = ID_MAIN_SHORT;
        *length = (body - 2) as u8;
    } else if let Some(head) = fragment.first_chunk_mut::<5>() {
        let [a, b, c, d] = ((body - 5) as u32).to_le_bytes();
        *head = [ID_MAIN_LONG, a, b, c, d];
    }
    seal(record);
}
