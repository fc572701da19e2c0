//! The body of a set: what its files are and which chunks they are made of.
//!
//! `....body.jsonl.zst.age`: JSON Lines, one object with one key per line:
//! ```text
//! {"set":  {"format":1,"scope":..,"source":..,"kind":..,"chunk_key":"<64 hex>"}}            first
//! {"dir":  {"path":..,"mode":..,"mtime":..}}
//! {"file": {"path":..,"mode":..,"mtime":..,"bytes":..,"tags":{..},"chunks":[{"id":..,"pack":0,"bytes":..},{"zero":8192}]}}
//! {"link": {"path":..,"mode":..,"target":..}}
//! {"end":  {"entries":..,"bytes":..,"packs":["<object name>",..],"facts":{..}}}             last
//! ```
//! A file is its chunks one after the other; `pack` counts into the list of the last line; `{"zero": n}` stands for n zero bytes that are
//! stored nowhere. The chunk key lets a reader check each id: HMAC-SHA256 of the content under it.
//! It streams at both ends. A body without its last line is not whole.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _};

use age::x25519::Recipient;
use bytes::{Buf as _, Bytes};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::chunk::{ChunkId, ChunkKey};
use super::envelope::{FORMAT, ObjectRef};
use super::error::RepoError;
use super::seal::{self, SealError};
use crate::ids::Scope;

/// The longest line a reader takes, in bytes; a file of 64 GiB in 128 KiB pieces has a line of about this length.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// What a set is a capture of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetKind {
    BaseBackup,
    Filestore,
    Access,
    References,
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub format: u32,
    pub scope: Scope,
    pub source: String,
    pub kind: SetKind,
    pub chunk_key: ChunkKey,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Piece {
    Stored { id: ChunkId, pack: u32, bytes: u64 },
    Zero { zero: u64 },
}

impl Piece {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Stored { bytes, .. } => *bytes,
            Self::Zero { zero } => *zero,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EntryKind {
    #[default]
    File,
    Dir,
    Link,
}

/// A file, a directory or a symbolic link of a set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    #[serde(skip)]
    pub kind: EntryKind,
    /// Relative, `/`-separated, no `.` or `..`.
    pub path: String,
    pub mode: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<Timestamp>,
    #[serde(default)]
    pub bytes: u64,
    /// What the source knows of it, such as `sha1`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<Piece>,
    /// Where a link points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The packs that pieces count into, by object name.
    pub packs: Vec<String>,
    /// What the source knows of the whole.
    pub facts: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Set(Header),
    File(FileEntry),
    Dir(FileEntry),
    Link(FileEntry),
    End(Totals),
}

/// Whether `path` may stand in a set: relative, and unable to lead anywhere else.
///
/// # Errors
/// The reason, when it may not.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > 4096 {
        return Err("an empty or endless path");
    }
    if path.starts_with('/') {
        return Err("an absolute path");
    }
    if path.contains('\0') || path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err("a path with an empty part, '.', '..' or a zero byte");
    }
    Ok(())
}

/// Lines are compressed when there are this many bytes of them, as a frame of their own.
const FRAME_BYTES: usize = 1 << 20;

/// Writes a body, line by line, into compressed memory. Between two frames no compressor is held: a backup has a body open for
/// every database of a cluster.
pub struct BodyWriter {
    recipient: Recipient,
    level: i32,
    frames: Vec<u8>,
    lines: Vec<u8>,
    entries: u64,
    bytes: u64,
}

impl BodyWriter {
    /// # Errors
    /// `Compress`, when the header cannot be written.
    pub fn new(recipient: Recipient, level: i32, header: Header) -> Result<Self, RepoError> {
        let mut writer = Self { recipient, level, frames: Vec::new(), lines: Vec::new(), entries: 0, bytes: 0 };
        writer.write(&Line::Set(header))?;
        Ok(writer)
    }

    /// # Errors
    /// `Compress`.
    pub fn entry(&mut self, entry: FileEntry) -> Result<(), RepoError> {
        self.entries += 1;
        self.bytes += entry.bytes;
        self.write(&match entry.kind {
            EntryKind::File => Line::File(entry),
            EntryKind::Dir => Line::Dir(entry),
            EntryKind::Link => Line::Link(entry),
        })
    }

    /// Compresses what waits and gives its memory back: nothing comes for a while.
    ///
    /// # Errors
    /// `Compress`.
    pub fn rest(&mut self) -> Result<(), RepoError> {
        let lines = std::mem::take(&mut self.lines);
        if !lines.is_empty() {
            self.frames.extend(zstd::bulk::compress(&lines, self.level).map_err(RepoError::Compress)?);
        }
        Ok(())
    }

    /// Ends the body; gives its sealed bytes and totals.
    ///
    /// # Errors
    /// `Compress`.
    pub fn finish(mut self, packs: Vec<String>, facts: serde_json::Value) -> Result<(Vec<u8>, Totals), RepoError> {
        let totals = Totals { entries: self.entries, bytes: self.bytes, packs, facts };
        self.write(&Line::End(totals.clone()))?;
        self.rest()?;
        let sealed = seal::seal_plain(&self.recipient, &self.frames)
            .map_err(|error| RepoError::Compress(std::io::Error::other(error)))?;
        Ok((sealed, totals))
    }

    fn write(&mut self, line: &Line) -> Result<(), RepoError> {
        serde_json::to_writer(&mut self.lines, line).map_err(|error| RepoError::Compress(error.into()))?;
        self.lines.push(b'\n');
        if self.lines.len() >= FRAME_BYTES { self.rest() } else { Ok(()) }
    }
}

/// A body that was read to its end once and found whole; held decrypted and still compressed.
#[derive(Clone)]
pub struct SetBody {
    /// The name of the body's object, for messages.
    pub name: String,
    pub epoch: u32,
    pub header: Header,
    pub totals: Totals,
    /// The packs that pieces count into.
    pub packs: Vec<ObjectRef>,
    compressed: Bytes,
}

impl std::fmt::Debug for SetBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetBody").field("name", &self.name).finish_non_exhaustive()
    }
}

impl SetBody {
    /// Reads a decrypted body to its end. `objects` is what the envelope names; every pack of the body must be among them.
    ///
    /// # Errors
    /// `Body`, with the line.
    pub fn parse(name: &str, epoch: u32, compressed: Bytes, objects: &[ObjectRef]) -> Result<Self, RepoError> {
        let mut lines = Lines::new(name, &compressed)?;
        let Some(Line::Set(header)) = lines.next_line()? else {
            return Err(lines.bad("it does not begin with the set's line"));
        };
        if header.format != FORMAT {
            return Err(lines.bad(&format!("its format is {}", header.format)));
        }
        let (mut entries, mut bytes, mut greatest_pack) = (0, 0_u64, None);
        let totals = loop {
            match lines.next_line()? {
                Some(Line::End(totals)) => break totals,
                Some(Line::File(entry) | Line::Dir(entry) | Line::Link(entry)) => {
                    entries += 1;
                    bytes = bytes.saturating_add(entry.bytes);
                    greatest_pack = greatest_pack.max(check_entry(&entry).map_err(|what| lines.bad(what))?);
                }
                Some(Line::Set(_)) => return Err(lines.bad("it begins twice")),
                None => return Err(lines.bad("it ends without its totals")),
            }
        };
        if lines.next_line()?.is_some() {
            return Err(lines.bad("it goes on after its end"));
        }
        if (entries, bytes) != (totals.entries, totals.bytes) {
            return Err(lines.bad("its totals are not those of its lines"));
        }
        if greatest_pack.is_some_and(|pack| pack as usize >= totals.packs.len()) {
            return Err(lines.bad("a piece lies in a pack that is not listed"));
        }
        let by_name: BTreeMap<&str, &ObjectRef> = objects.iter().map(|o| (o.name.as_str(), o)).collect();
        let packs: Option<Vec<ObjectRef>> =
            totals.packs.iter().map(|pack| by_name.get(pack.as_str()).copied().cloned()).collect();
        let packs = packs.ok_or_else(|| lines.bad("it lists a pack that the envelope does not name"))?;
        drop(lines);
        Ok(Self { name: name.to_owned(), epoch, header, totals, packs, compressed })
    }

    /// Every file, directory and link, in the order they were captured.
    ///
    /// # Errors
    /// Never in practice: the body was read once before.
    pub fn entries(&self) -> Result<impl Iterator<Item = Result<FileEntry, RepoError>> + use<'_>, RepoError> {
        let mut lines = Lines::new(&self.name, &self.compressed)?;
        lines.next_line()?;
        Ok(std::iter::from_fn(move || match lines.next_line() {
            Ok(Some(Line::File(entry) | Line::Dir(entry) | Line::Link(entry))) => Some(Ok(entry)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }))
    }
}

/// Checks one entry against itself; gives the greatest pack number in it.
fn check_entry(entry: &FileEntry) -> Result<Option<u32>, &'static str> {
    check_path(&entry.path)?;
    let sum = entry.chunks.iter().try_fold(0_u64, |sum, piece| sum.checked_add(piece.bytes()));
    if sum != Some(entry.bytes) {
        return Err("a file whose pieces do not add up to it");
    }
    if (entry.kind == EntryKind::Link) != entry.target.is_some() {
        return Err("a link without a target, or a target without a link");
    }
    let packs = entry.chunks.iter().filter_map(|piece| match piece {
        Piece::Stored { pack, .. } => Some(*pack),
        Piece::Zero { .. } => None,
    });
    Ok(packs.max())
}

/// The lines of a compressed body.
struct Lines<'a> {
    name: &'a str,
    reader: BufReader<zstd::stream::read::Decoder<'static, BufReader<bytes::buf::Reader<Bytes>>>>,
    buffer: Vec<u8>,
    number: u64,
}

impl<'a> Lines<'a> {
    fn new(name: &'a str, compressed: &Bytes) -> Result<Self, RepoError> {
        let decoder = zstd::stream::read::Decoder::new(compressed.clone().reader()).map_err(RepoError::Compress)?;
        Ok(Self { name, reader: BufReader::with_capacity(64 << 10, decoder), buffer: Vec::new(), number: 0 })
    }

    fn bad(&self, what: &str) -> RepoError {
        RepoError::Body { name: self.name.to_owned(), line: self.number, what: what.to_owned() }
    }

    fn next_line(&mut self) -> Result<Option<Line>, RepoError> {
        self.number += 1;
        self.buffer.clear();
        let read = self.reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut self.buffer);
        if read.map_err(|error| self.bad(&SealError::Altered(error).to_string()))? == 0 {
            return Ok(None);
        }
        if self.buffer.last() != Some(&b'\n') {
            return Err(self.bad("it is cut short or too long"));
        }
        let mut line = serde_json::from_slice(&self.buffer).map_err(|error| self.bad(&error.to_string()))?;
        match &mut line {
            Line::Dir(entry) => entry.kind = EntryKind::Dir,
            Line::Link(entry) => entry.kind = EntryKind::Link,
            Line::File(_) | Line::Set(_) | Line::End(_) => {}
        }
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use age::x25519::Identity;
    use proptest::prelude::*;

    fn header() -> Header {
        let chunk_key = ChunkKey::generate().unwrap();
        let scope = Scope::Tenant("acme".into());
        Header { format: FORMAT, scope, source: "main".into(), kind: SetKind::Filestore, chunk_key }
    }

    fn pack() -> ObjectRef {
        let sha256 = crate::ids::Digest::of(b"pack");
        ObjectRef { name: "pack".into(), sha256, bytes: 4, locked_until: Timestamp::UNIX_EPOCH }
    }

    fn write(entries: &[FileEntry]) -> Bytes {
        let key = Identity::generate();
        let mut writer = BodyWriter::new(key.to_public(), 1, header()).unwrap();
        for entry in entries {
            writer.entry(entry.clone()).unwrap();
            if entry.bytes % 2 == 0 {
                writer.rest().unwrap();
            }
        }
        let (sealed, _) = writer.finish(vec!["pack".into()], serde_json::json!({"database": "acme"})).unwrap();
        super::super::seal::open_plain(&key, &sealed).unwrap().into()
    }

    fn read(compressed: Bytes) -> Result<Vec<FileEntry>, RepoError> {
        SetBody::parse("body", 1, compressed, &[pack()])?.entries()?.collect()
    }

    fn of_lines(lines: &str) -> Bytes {
        zstd::bulk::compress(lines.as_bytes(), 1).unwrap().into()
    }

    fn file(path: &str, sizes: &[u64]) -> FileEntry {
        let piece = |(at, bytes): (usize, &u64)| match at % 2 {
            0 => Piece::Stored { id: ChunkId([7; 32]), pack: 0, bytes: *bytes },
            _ => Piece::Zero { zero: *bytes },
        };
        let chunks: Vec<Piece> = sizes.iter().enumerate().map(piece).collect();
        FileEntry { path: path.into(), mode: 0o600, bytes: sizes.iter().sum(), chunks, ..FileEntry::default() }
    }

    #[test]
    fn a_body_that_contradicts_itself_is_refused_with_its_line() {
        let good = String::from_utf8(zstd::stream::decode_all(&write(&[file("a", &[3, 2])])[..]).unwrap()).unwrap();
        assert_eq!(read(of_lines(&good)).unwrap().len(), 1);
        let lines: Vec<&str> = good.lines().collect();
        for bad in [
            lines[..2].join("\n") + "\n",
            good.trim_end().to_owned(),
            lines[1..].join("\n") + "\n",
            good.replace("\"bytes\":5", "\"bytes\":6"),
            good.replace("\"pack\":0", "\"pack\":1"),
            good.replace("\"packs\":[\"pack\"]", "\"packs\":[\"other\"]"),
            good.replace("\"path\":\"a\"", "\"path\":\"../a\""),
            good.replace("\"mode\"", "\"surprise\":1,\"mode\""),
            format!("{good}{}\n", lines[1]),
            format!("{}\n{good}", lines[0]),
        ] {
            assert_ne!(bad, good);
            assert!(matches!(read(of_lines(&bad)), Err(RepoError::Body { .. })), "{bad}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/", "a\0b"] {
            assert!(check_path(path).is_err(), "{path}");
        }
        assert!(check_path("base/16384/2619_fsm").is_ok());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(sizes in proptest::collection::vec(proptest::collection::vec(1..1_000_000_u64, 0..6), 0..12)) {
            let mut entries: Vec<_> = sizes.iter().enumerate().map(|(n, s)| file(&format!("f{n}/é \"x\""), s)).collect();
            entries.push(FileEntry { kind: EntryKind::Dir, path: "d".into(), mode: 0o700, ..FileEntry::default() });
            let (kind, target) = (EntryKind::Link, Some("f0".into()));
            entries.push(FileEntry { kind, path: "l".into(), target, ..FileEntry::default() });
            prop_assert_eq!(read(write(&entries)).unwrap(), entries);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(of_lines(&text));
            let _ = read(bytes.into());
        }
    }
}
