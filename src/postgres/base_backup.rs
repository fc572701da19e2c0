//! A base backup's archives, member by member.
//!
//! [`channel`] makes a reader out of the pieces that the stream delivers (async side) for [`walk`] (a thread of its
//! own, synchronous), which reads the tar and hands each member, with its owner, to a function. The archive must end in
//! order: a channel that closes without [`ArchiveSender::finish`], a member cut short, a missing end block are errors,
//! never a shorter backup.
//!
//! Names are taken as what a hostile server might send: relative, without `.` and `..`, no empty part; a member that is
//! neither file, folder nor symbolic link is refused. Links are never followed and nothing is written here.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::owner::{FileOwner, HEAD_BYTES, Residue, Skip, owner_of};
use super::relation::RelationFile;
use crate::failure::{Failure, Kind};

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    File,
    Folder,
    /// A symbolic link. Only a tablespace's ([`Member::tablespace_link`]) means anything; its target is where the
    /// tablespace was on the source, for people to read.
    Link {
        target: String,
    },
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Relative to the data directory, or to the tablespace's folder.
    pub path: String,
    /// The OID of the tablespace whose archive this is.
    pub tablespace: Option<u32>,
    pub owner: FileOwner,
    pub kind: MemberKind,
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: u64,
}

impl Member {
    /// The OID of the tablespace that this link of `base.tar` stands for.
    #[must_use]
    pub fn tablespace_link(&self) -> Option<u32> {
        match (&self.kind, self.tablespace) {
            (MemberKind::Link { .. }, None) => tablespace_link(&self.path),
            _ => None,
        }
    }

    /// What its name says, when it is a relation's file: in a database's folder or in `global`. Elsewhere the same
    /// letters mean other things (`pg_xact/1000`).
    #[must_use]
    pub fn relation(&self) -> Option<RelationFile> {
        let (folder, name) = self.path.rsplit_once('/')?;
        let in_its_place = match self.owner {
            FileOwner::Database(_) => folder.split('/').count() == 2 && !folder.starts_with("pg_"),
            FileOwner::Cluster => folder == "global" && self.tablespace.is_none(),
            FileOwner::Residue(_) | FileOwner::Skip(_) => false,
        };
        if in_its_place && self.kind == MemberKind::File { RelationFile::parse(name) } else { None }
    }
}

fn tablespace_link(path: &str) -> Option<u32> {
    let oid = path.strip_prefix("pg_tblspc/")?;
    let fine = !oid.starts_with('0') && oid.bytes().all(|b| b.is_ascii_digit());
    if fine { oid.parse().ok() } else { None }
}

#[derive(Debug, thiserror::Error)]
pub enum WalkError<E> {
    #[error("the archive cannot be read")]
    Archive(#[source] io::Error),
    #[error("the archive has a member named '{name}', which could lead out of its folder")]
    HostileName { name: String },
    #[error("the archive's member '{name}' is of kind '{kind}', which a server never sends")]
    HostileKind { name: String, kind: char },
    /// What the caller's own function said.
    #[error(transparent)]
    Handler(E),
}

impl<E: Into<Self> + std::error::Error + 'static> From<WalkError<E>> for Failure {
    fn from(error: WalkError<E>) -> Self {
        let cause = match &error {
            WalkError::Archive(source) => format!("the archive cannot be read: {source}"),
            WalkError::HostileName { .. } | WalkError::HostileKind { .. } => error.to_string(),
            WalkError::Handler(_) => String::new(),
        };
        let (kind, next) = match error {
            WalkError::Handler(error) => return error.into(),
            WalkError::Archive(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                (Kind::Unreachable, "run the backup again")
            }
            WalkError::Archive(_) => (Kind::Integrity, "run the backup again; if it stays, check server and network"),
            WalkError::HostileName { .. } | WalkError::HostileKind { .. } => {
                (Kind::Refused, "check that the server is yours and not tampered with")
            }
        };
        Self::new(kind, "base backup", cause, next)
    }
}

/// Hands each member of one archive to `handle`, in order, with its content to read (empty for folders and links). What
/// `handle` leaves unread is passed over.
///
/// # Errors
/// When the archive is broken, cut short or hostile, or `handle` fails.
pub fn walk<E>(
    archive: impl Read,
    tablespace: Option<u32>,
    mut handle: impl FnMut(&Member, &mut dyn Read) -> Result<(), E>,
) -> Result<(), WalkError<E>> {
    let mut archive = tar::Archive::new(archive);
    // Raw: the server uses no extended headers, so none may rename a member here.
    for entry in archive.entries().map_err(WalkError::Archive)?.raw(true) {
        let mut entry = entry.map_err(WalkError::Archive)?;
        let mut member = member_of(&entry, tablespace)?;
        let mut head = [0; HEAD_BYTES];
        let mut body = Body { left: entry.size(), inner: &mut entry };
        let mut have = 0;
        if member.path.starts_with("pg_twophase/") && member.owner != FileOwner::Skip(Skip::UnreadableName) {
            have = fill(&mut body, &mut head).map_err(WalkError::Archive)?;
            member.owner = owner_of(&member.path, tablespace, &head[..have]);
        }
        handle(&member, &mut Read::chain(&head[..have], &mut body)).map_err(WalkError::Handler)?;
        io::copy(&mut body, &mut io::sink()).map_err(WalkError::Archive)?;
    }
    only_zeros_follow(archive.into_inner()).map_err(WalkError::Archive)
}

/// Two zero blocks end an archive. The first has been read by now; the second must follow, and nothing but zeros.
fn only_zeros_follow(mut rest: impl Read) -> io::Result<()> {
    let mut bytes = Vec::new();
    rest.by_ref().take(MOST_PADDING_BYTES).read_to_end(&mut bytes)?;
    let wrong = |kind, what| Err(io::Error::new(kind, what));
    if bytes.len() < 512 {
        return wrong(io::ErrorKind::UnexpectedEof, "the archive ends without its end blocks");
    }
    if bytes.len() as u64 == MOST_PADDING_BYTES || bytes.iter().any(|byte| *byte != 0) {
        return wrong(io::ErrorKind::InvalidData, "something follows the archive's end");
    }
    Ok(())
}

/// The server ends an archive with 1024 zero bytes; other writers fill up to 10 KiB.
const MOST_PADDING_BYTES: u64 = 1 << 20;

fn member_of<E>(entry: &tar::Entry<'_, impl Read>, tablespace: Option<u32>) -> Result<Member, WalkError<E>> {
    let name = entry.path_bytes();
    let text = std::str::from_utf8(&name);
    let path = text.map_or_else(|_| String::from_utf8_lossy(&name).into_owned(), str::to_owned);
    // Folders and links end in a slash in the server's archives (tarCreateHeader).
    let path = path.strip_suffix('/').unwrap_or(&path);
    // One member begins with "./" in every server's archive: ./pg_wal/archive_status (sendDir, basebackup.c).
    let path = path.strip_prefix("./").unwrap_or(path).to_owned();
    if path.contains('\0') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(WalkError::HostileName { name: path });
    }
    let header = entry.header();
    let kind = match header.entry_type() {
        tar::EntryType::Regular => MemberKind::File,
        tar::EntryType::Directory => MemberKind::Folder,
        tar::EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            MemberKind::Link { target: String::from_utf8_lossy(&target).into_owned() }
        }
        other => return Err(WalkError::HostileKind { name: path, kind: char::from(other.as_byte()) }),
    };
    if kind != MemberKind::File && entry.size() != 0 {
        return Err(WalkError::HostileKind { name: path, kind: char::from(header.entry_type().as_byte()) });
    }
    let owner = match (&kind, text) {
        (_, Err(_)) => FileOwner::Skip(Skip::UnreadableName),
        (MemberKind::Link { .. }, Ok(_)) if tablespace.is_some() || tablespace_link(&path).is_none() => {
            FileOwner::Residue(Residue::ForeignLink)
        }
        _ => owner_of(&path, tablespace, b""),
    };
    let mode = header.mode().map_err(WalkError::Archive)? & 0o7777;
    let modified = header.mtime().map_err(WalkError::Archive)?;
    Ok(Member { path, tablespace, owner, kind, bytes: entry.size(), mode, modified })
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match reader.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// A member's content; an end before its time is an error.
struct Body<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a member of the archive is cut short"));
        }
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

enum Piece {
    Data(Vec<Bytes>),
    End,
}

/// Messages are handed over in batches of this size: waking the other thread for each would cost more than reading it.
const BATCH_BYTES: usize = 512 << 10;
/// Batches waiting between the network and the walking thread.
const WAITING_BATCHES: usize = 4;

/// The sending half: one archive.
#[derive(Debug)]
pub struct ArchiveSender {
    pieces: mpsc::Sender<Piece>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
}

/// The reading half, for [`walk`] on a thread that may block.
pub struct ArchiveReader {
    pieces: mpsc::Receiver<Piece>,
    batch: std::vec::IntoIter<Bytes>,
    current: Bytes,
    ended: bool,
}

/// A pipe for one archive.
#[must_use]
pub fn channel() -> (ArchiveSender, ArchiveReader) {
    let (sender, pieces) = mpsc::channel(WAITING_BATCHES);
    let sender = ArchiveSender { pieces: sender, batch: Vec::new(), batch_bytes: 0 };
    (sender, ArchiveReader { pieces, batch: Vec::new().into_iter(), current: Bytes::new(), ended: false })
}

impl ArchiveSender {
    /// Hands on bytes, at the latest with [`ArchiveSender::finish`]; false when the reader is gone (it has failed: ask its
    /// thread why).
    pub async fn send(&mut self, bytes: Bytes) -> bool {
        self.batch_bytes += bytes.len();
        self.batch.push(bytes);
        self.batch_bytes < BATCH_BYTES || self.hand_over().await
    }

    /// The archive is complete. Without this the reader gets an error at the end.
    pub async fn finish(mut self) -> bool {
        self.hand_over().await && self.pieces.send(Piece::End).await.is_ok()
    }

    async fn hand_over(&mut self) -> bool {
        self.batch_bytes = 0;
        self.pieces.send(Piece::Data(std::mem::take(&mut self.batch))).await.is_ok()
    }
}

impl Read for ArchiveReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            if let Some(bytes) = self.batch.next() {
                self.current = bytes;
                continue;
            }
            match self.pieces.blocking_recv() {
                Some(Piece::Data(batch)) => self.batch = batch.into_iter(),
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the base backup broke off")),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;

    use super::*;

    /// An archive as the server writes it: ustar headers, two zero blocks.
    fn archive(members: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, kind, content) in members {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o600);
            header.set_mtime(0);
            if *kind == tar::EntryType::Symlink {
                header.set_link_name_literal("/srv/space").unwrap();
            }
            header.set_size(content.len() as u64);
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(content);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    fn seen(archive: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, WalkError<Infallible>> {
        let mut all = Vec::new();
        walk(archive, None, |member, body| {
            let mut content = Vec::new();
            // A broken body is met again by walk itself.
            let _ = body.read_to_end(&mut content);
            all.push((member.clone(), content));
            Ok(())
        })?;
        Ok(all)
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn members_come_with_owner_and_content() {
        let mut prepared = 0x57F9_4534_u32.to_le_bytes().to_vec();
        prepared.extend_from_slice(&[0; 8]);
        prepared.extend_from_slice(&16401_u32.to_le_bytes());
        prepared.extend_from_slice(b"the rest");
        let all = seen(&archive(&[
            ("base/5/", tar::EntryType::Directory, b""),
            ("base/5/1259", FILE, &[7; 9000]),
            ("pg_twophase/000002E5", FILE, &prepared),
            ("pg_tblspc/16400/", tar::EntryType::Symlink, b""),
            ("pg_wal/", tar::EntryType::Symlink, b""),
        ]))
        .unwrap();
        let owners: Vec<_> = all.iter().map(|(member, _)| member.owner).collect();
        let db = |oid| FileOwner::Database(crate::ids::DbOid(oid));
        let foreign = FileOwner::Residue(Residue::ForeignLink);
        assert_eq!(owners, [db(5), db(5), db(16401), FileOwner::Cluster, foreign]);
        assert_eq!(all[1].1, [7; 9000]);
        assert_eq!(all[2].1, prepared);
        let relations: Vec<_> = all.iter().map(|(member, _)| member.relation().is_some()).collect();
        assert_eq!(relations, [false, true, false, false, false]);
        assert_eq!(all[3].0.tablespace_link(), Some(16400));
        assert_eq!(all[3].0.kind, MemberKind::Link { target: "/srv/space".to_owned() });
        assert_eq!(all[4].0.tablespace_link(), None);
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["/etc/passwd", "../x", "base/../../x", "base//x", "././x", ".//x", "./../x", "base/.", "", ".."] {
            let result = seen(&archive(&[(name, FILE, b"x")]));
            assert!(matches!(result, Err(WalkError::HostileName { .. })), "{name}: {result:?}");
        }
    }

    #[test]
    fn kinds_that_a_server_never_sends_are_refused() {
        for kind in [tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Block, tar::EntryType::Fifo] {
            let result = seen(&archive(&[("base/5/1", kind, b"")]));
            assert!(matches!(result, Err(WalkError::HostileKind { .. })), "{kind:?}");
        }
    }

    #[test]
    fn an_archive_cut_anywhere_is_an_error() {
        let whole = archive(&[("PG_VERSION", FILE, b"15\n"), ("base/5/1259", FILE, &[7; 700])]);
        assert_eq!(seen(&whole).unwrap().len(), 2);
        for length in 0..whole.len() {
            assert!(seen(&whole[..length]).is_err(), "{length} bytes of {}", whole.len());
        }
    }

    #[test]
    fn a_channel_that_closes_without_its_end_is_an_error() {
        let whole = archive(&[("PG_VERSION", FILE, b"15\n")]);
        for finished in [true, false] {
            let (mut sender, reader) = channel();
            let bytes = Bytes::from(whole.clone());
            let sending = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    assert!(sender.send(bytes).await);
                    if finished {
                        sender.finish().await;
                    }
                });
            });
            let result = walk(reader, None, |_, _| Ok::<(), Infallible>(()));
            sending.join().unwrap();
            assert_eq!(result.is_ok(), finished);
        }
    }
}
