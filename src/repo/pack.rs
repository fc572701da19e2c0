//! A pack: one object holding many chunks.
//!
//! ```text
//! age file ( zstd frames ( tar: 512-byte ustar header named by chunk id | content | zeros to 512 ; 1024 zeros ) )
//! ```
//! A member of 64 KiB or more is a zstd frame of its own (header, content and padding inside), smaller ones share a frame of about 1 MiB,
//! the two closing zero blocks are a last frame. Frames are made in parallel and joined in order, so the same
//! chunks always give the same tar. `age -d -i KEY PACK | zstd -d | tar x` unpacks it.
//!
//! Members: mode 0600, owner 0, time 0, type `0`, nothing else; whatever deviates is refused on reading
//! (POSIX.1-1988 ustar, IEEE Std 1003.1, pax: "ustar Interchange Format").

use std::io::{self, Read, Write as _};

use age::x25519::{Identity, Recipient};
use sha2::Digest as _;

use super::chunk::{ChunkId, MAX_CHUNK_BYTES};
use super::seal::{self, AgeWriter, SealError};
use crate::ids::Digest;

/// A member's header, and the unit that content is padded to.
const BLOCK: usize = 512;
/// Members of at least this many bytes get a zstd frame of their own.
pub const OWN_FRAME_BYTES: usize = 64 << 10;
/// Smaller members share a frame of about this size.
pub const SHARED_FRAME_BYTES: usize = 1 << 20;
/// What a pack may hold uncompressed: the writer stops before it, the reader refuses beyond it.
pub const MAX_PLAIN_BYTES: u64 = 1 << 30;

/// Why a pack cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("its content is not a tar of chunks: {what} at byte {at}")]
    Malformed { what: &'static str, at: u64 },
}

/// Appends the tar member of one chunk to `out`.
pub fn append_member(out: &mut Vec<u8>, id: ChunkId, content: &[u8]) {
    append_tar_member(out, &id.to_string(), content);
}

/// Appends a tar member to `out`; `name` has at most 100 bytes (what is beyond is cut).
pub fn append_tar_member(out: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut header = [0_u8; BLOCK];
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name.get(..100).unwrap_or(name));
    field(100, "0000600\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{:011o}\0", content.len()));
    field(136, "00000000000\0");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum = checksum(&header);
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(content);
    out.resize(out.len() + padding(content.len()), 0);
}

/// How many bytes the tar member of a chunk of `content_bytes` takes.
#[must_use]
pub fn member_bytes(content_bytes: usize) -> usize {
    BLOCK + content_bytes + padding(content_bytes)
}

fn padding(bytes: usize) -> usize {
    bytes.wrapping_neg() % BLOCK
}

/// The sum of a header's bytes, its own checksum field counted as blanks.
fn checksum(header: &[u8; BLOCK]) -> u32 {
    let plain = |range: &[u8]| range.iter().map(|b| u32::from(*b)).sum::<u32>();
    plain(&header[..148]) + 8 * u32::from(b' ') + plain(&header[156..])
}

/// Counts and hashes the sealed bytes on their way into memory.
struct Hashing {
    bytes: Vec<u8>,
    sha256: sha2::Sha256,
}

impl io::Write for Hashing {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.sha256.update(part);
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pack being filled: frames go in, are sealed at once, and only sealed bytes are held.
pub struct PackBuilder {
    writer: AgeWriter<Hashing>,
    stored_bytes: usize,
}

/// A finished pack.
pub struct SealedPack {
    pub bytes: Vec<u8>,
    pub digest: Digest,
}

impl PackBuilder {
    /// A pack that is expected to have `expected_bytes`: set aside at once, since growing would hold it twice.
    ///
    /// # Errors
    /// `Sealing`, when encryption cannot begin.
    pub fn new(recipient: &Recipient, expected_bytes: usize) -> Result<Self, SealError> {
        let inner = Hashing { bytes: Vec::with_capacity(expected_bytes), sha256: sha2::Sha256::new() };
        Ok(Self { writer: seal::encrypt(recipient, inner)?, stored_bytes: 0 })
    }

    /// Adds a compressed frame of whole members.
    ///
    /// # Errors
    /// `Sealing`.
    pub fn push_frame(&mut self, frame: &[u8]) -> Result<(), SealError> {
        self.stored_bytes += frame.len();
        self.writer.write_all(frame).map_err(SealError::Sealing)
    }

    /// About how many bytes the pack has by now.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.stored_bytes
    }

    /// Closes the tar, the compression and the seal.
    ///
    /// # Errors
    /// `Sealing`.
    pub fn finish(mut self) -> Result<SealedPack, SealError> {
        let closing = zstd::bulk::compress(&[0; 2 * BLOCK], 1).map_err(SealError::Sealing)?;
        self.push_frame(&closing)?;
        let sealed = self.writer.finish().map_err(SealError::Sealing)?;
        Ok(SealedPack { bytes: sealed.bytes, digest: Digest(sealed.sha256.finalize().into()) })
    }
}

/// The chunks of a pack, one after the other; holds one chunk at a time.
pub struct PackReader<R> {
    tar: R,
    at: u64,
    content: Vec<u8>,
}

/// Opens a sealed pack.
///
/// # Errors
/// `WrongKey`, `NotAge`; damage further in shows while reading.
pub fn open<'a>(identity: &Identity, sealed: &'a [u8]) -> Result<PackReader<impl Read + use<'a>>, SealError> {
    let decoder = zstd::stream::read::Decoder::new(seal::decrypt(identity, sealed)?).map_err(SealError::Altered)?;
    Ok(PackReader { tar: decoder, at: 0, content: Vec::new() })
}

impl<R: Read> PackReader<R> {
    /// The next chunk, as the name its member has and its content; `None` after the closing blocks.
    ///
    /// # Errors
    /// `Malformed` for anything [`PackBuilder`] does not write, `Seal` for damage.
    pub fn next_chunk(&mut self) -> Result<Option<(ChunkId, &[u8])>, PackError> {
        let mut header = [0; BLOCK];
        self.fill(&mut header)?;
        if header == [0; BLOCK] {
            self.finish()?;
            return Ok(None);
        }
        let bad = |what| PackError::Malformed { what, at: self.at };
        let (id, bytes) = parse_header(&header).map_err(bad)?;
        if self.at + bytes as u64 > MAX_PLAIN_BYTES {
            return Err(bad("more than a pack may hold"));
        }
        let mut content = std::mem::take(&mut self.content);
        content.resize(bytes + padding(bytes), 0);
        let filled = self.fill(&mut content);
        self.content = content;
        filled?;
        if self.content.iter().skip(bytes).any(|b| *b != 0) {
            return Err(PackError::Malformed { what: "padding that is not zero", at: self.at });
        }
        Ok(Some((id, self.content.get(..bytes).unwrap_or_default())))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), PackError> {
        self.tar.read_exact(buffer).map_err(SealError::Altered)?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    /// After the first closing block: the second, then the end, which is where the seal's own end is checked.
    fn finish(&mut self) -> Result<(), PackError> {
        let mut block = [0xFF; BLOCK];
        self.fill(&mut block)?;
        let after = self.tar.read(&mut [0]).map_err(SealError::Altered)?;
        let whole = block == [0; BLOCK] && after == 0;
        if whole { Ok(()) } else { Err(PackError::Malformed { what: "content after the end", at: self.at }) }
    }
}

fn parse_header(header: &[u8; BLOCK]) -> Result<(ChunkId, usize), &'static str> {
    let octal = |field: &[u8]| {
        let digits = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
        u64::from_str_radix(digits, 8).ok()
    };
    if octal(&header[148..156]) != Some(u64::from(checksum(header))) {
        return Err("a header with a wrong sum");
    }
    if header[156] != b'0' || header[64..100].iter().chain(&header[345..]).any(|b| *b != 0) {
        return Err("a member that is not a plain chunk");
    }
    let name = std::str::from_utf8(&header[..64]).map_err(|_| "a member not named by an id")?;
    let id: ChunkId = name.parse().map_err(|_| "a member not named by an id")?;
    let bytes = octal(&header[124..136]).ok_or("a member without a size")?;
    match usize::try_from(bytes) {
        Ok(bytes) if bytes <= MAX_CHUNK_BYTES => Ok((id, bytes)),
        _ => Err("a chunk that is too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(key: &Identity, chunks: &[Vec<u8>]) -> SealedPack {
        let mut builder = PackBuilder::new(&key.to_public(), 0).unwrap();
        for (number, content) in chunks.iter().enumerate() {
            let mut member = Vec::new();
            append_member(&mut member, id(number), content);
            assert_eq!(member.len(), member_bytes(content.len()));
            builder.push_frame(&zstd::bulk::compress(&member, 1).unwrap()).unwrap();
        }
        builder.finish().unwrap()
    }

    fn id(number: usize) -> ChunkId {
        ChunkId([u8::try_from(number).unwrap(); 32])
    }

    fn read_all(key: &Identity, sealed: &[u8]) -> Result<Vec<(ChunkId, Vec<u8>)>, PackError> {
        let mut reader = open(key, sealed)?;
        let mut chunks = Vec::new();
        while let Some((id, content)) = reader.next_chunk()? {
            chunks.push((id, content.to_vec()));
        }
        Ok(chunks)
    }

    /// A pack of arbitrary tar bytes.
    fn sealed_tar(key: &Identity, tar: &[u8]) -> Vec<u8> {
        seal::seal(&key.to_public(), 1, tar).unwrap()
    }

    #[test]
    fn age_zstd_and_tar_unpack_it() {
        let (key, folder) = (Identity::generate(), tempfile::tempdir().unwrap());
        let chunks = [b"small".to_vec(), vec![5; 100_000], Vec::new()];
        let pack = packed(&key, &chunks);
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("key"), age::secrecy::ExposeSecret::expose_secret(&key.to_string())).unwrap();
        std::fs::write(path("pack"), &pack.bytes).unwrap();
        let script = "set -o pipefail; age -d -i key pack | zstd -d | tar x";
        let status = std::process::Command::new("bash").args(["-c", script]).current_dir(folder.path()).status();
        assert!(status.unwrap().success());
        for (number, content) in chunks.iter().enumerate() {
            assert_eq!(&std::fs::read(path(&id(number).to_string())).unwrap(), content);
        }
        assert_eq!(pack.digest, Digest::of(&pack.bytes));
    }

    #[test]
    fn a_pack_cut_or_altered_anywhere_is_an_error() {
        let key = Identity::generate();
        let pack = packed(&key, &[b"one".to_vec(), b"two".to_vec()]).bytes;
        for at in 0..pack.len() {
            assert!(read_all(&key, &pack[..at]).is_err(), "cut at {at}");
            let mut altered = pack.clone();
            altered[at] ^= 0x10;
            assert!(read_all(&key, &altered).is_err(), "altered at {at}");
        }
        assert!(read_all(&Identity::generate(), &pack).is_err());
    }

    #[test]
    fn hostile_tars_are_refused() {
        let key = Identity::generate();
        let mut good = Vec::new();
        append_member(&mut good, id(1), b"content");
        let closed = |tar: &[u8]| [tar, &[0; 1024]].concat();
        assert_eq!(read_all(&key, &sealed_tar(&key, &closed(&good))).unwrap().len(), 1);
        let mut link = good.clone();
        link[156] = b'2';
        let mut huge = good.clone();
        huge[124..136].copy_from_slice(b"77777777777\0");
        let mut path = good.clone();
        path[..9].copy_from_slice(b"../../etc");
        let mut padded = closed(&good);
        padded[BLOCK + 10] = 1;
        for mut tar in [link, huge, path] {
            let header: &mut [u8; BLOCK] = (&mut tar[..BLOCK]).try_into().unwrap();
            let sum = checksum(header);
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let error = read_all(&key, &sealed_tar(&key, &closed(&tar))).unwrap_err();
            assert!(matches!(error, PackError::Malformed { .. }), "{error}");
        }
        for tar in [padded, good.clone(), closed(&good)[..BLOCK * 3].to_vec(), [closed(&good), good].concat()] {
            assert!(read_all(&key, &sealed_tar(&key, &tar)).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_goes_in_comes_out(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..20)) {
            let key = Identity::generate();
            let read = read_all(&key, &packed(&key, &chunks).bytes).unwrap();
            prop_assert_eq!(read.into_iter().map(|(_, content)| content).collect::<Vec<_>>(), chunks);
        }

        #[test]
        fn no_tar_makes_the_reader_panic(tar in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let key = Identity::generate();
            let _ = read_all(&key, &sealed_tar(&key, &tar));
        }
    }
}
