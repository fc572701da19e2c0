//! Sealing: zstd frames inside one age file (X25519 recipient), and opening it again.
//!
//! `age -d -i key.age FILE | zstd -d` opens whatever this module writes. Opening is bounded: the caller says how many bytes he
//! expects at most, because a few kilobytes of hostile zstd can stand for terabytes.

use std::io::{self, Read, Write};

use age::x25519::{Identity, Recipient};

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("it is sealed with another key")]
    WrongKey,
    #[error("it is not an age file, or its header was altered")]
    NotAge,
    #[error("it is cut short or altered")]
    Altered(#[source] io::Error),
    #[error("it holds more than the {limit} bytes it may")]
    TooLong { limit: u64 },
    #[error("it could not be sealed")]
    Sealing(#[source] io::Error),
}

/// The age half of sealing: what is written comes out encrypted in `inner`.
pub type AgeWriter<W> = age::stream::StreamWriter<W>;

/// Begins an age file for `recipient` in `inner`; `finish` on what it gives ends the file.
///
/// # Errors
/// `Sealing` when `inner` fails.
pub fn encrypt<W: Write>(recipient: &Recipient, inner: W) -> Result<AgeWriter<W>, SealError> {
    age::Encryptor::with_recipients(std::iter::once(recipient as &dyn age::Recipient))
        .map_err(|error| SealError::Sealing(io::Error::other(error)))?
        .wrap_output(inner)
        .map_err(SealError::Sealing)
}

/// A reader of what an age file holds.
///
/// # Errors
/// `WrongKey` or `NotAge`; damage further in shows while reading.
pub fn decrypt<'a>(identity: &Identity, sealed: &'a [u8]) -> Result<impl Read + use<'a>, SealError> {
    let decryptor = age::Decryptor::new_buffered(sealed).map_err(|_| SealError::NotAge)?;
    decryptor.decrypt(std::iter::once(identity as &dyn age::Identity)).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys | age::DecryptError::DecryptionFailed => SealError::WrongKey,
        _ => SealError::NotAge,
    })
}

/// Seals `plain` whole.
///
/// # Errors
/// `Sealing`, when compression or encryption fails.
pub fn seal(recipient: &Recipient, level: i32, plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut sealer = Sealer::new(recipient, level)?;
    sealer.write_all(plain).map_err(SealError::Sealing)?;
    sealer.finish()
}

/// Seals without compressing: for content that has nothing to give.
///
/// # Errors
/// `Sealing`, when encryption fails.
pub fn seal_plain(recipient: &Recipient, plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut writer = encrypt(recipient, Vec::with_capacity(plain.len() + plain.len() / 2048 + 512))?;
    writer.write_all(plain).and_then(|()| writer.finish()).map_err(SealError::Sealing)
}

/// Seals a stream into memory: writes go through zstd and age.
pub struct Sealer(zstd::stream::write::Encoder<'static, AgeWriter<Vec<u8>>>);

impl Sealer {
    /// # Errors
    /// `Sealing`, when compression or encryption cannot begin.
    pub fn new(recipient: &Recipient, level: i32) -> Result<Self, SealError> {
        let inner = encrypt(recipient, Vec::new())?;
        Ok(Self(zstd::stream::write::Encoder::new(inner, level).map_err(SealError::Sealing)?))
    }

    /// Ends both layers and gives the sealed bytes.
    ///
    /// # Errors
    /// `Sealing`, when a layer fails.
    pub fn finish(self) -> Result<Vec<u8>, SealError> {
        self.0.finish().and_then(AgeWriter::finish).map_err(SealError::Sealing)
    }
}

impl Write for Sealer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Opens what [`seal`] made, refusing to grow beyond `limit` bytes.
///
/// # Errors
/// Any [`SealError`] but `Sealing`.
pub fn open(identity: &Identity, sealed: &[u8], limit: u64) -> Result<Vec<u8>, SealError> {
    let decoder = zstd::stream::read::Decoder::new(decrypt(identity, sealed)?).map_err(SealError::Altered)?;
    read_bounded(decoder, limit)
}

/// Opens what [`seal_plain`] made.
///
/// # Errors
/// Any [`SealError`] but `Sealing`.
pub fn open_plain(identity: &Identity, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    read_bounded(decrypt(identity, sealed)?, sealed.len() as u64)
}

/// Decompresses `bytes`, refusing to grow beyond `limit` bytes.
///
/// # Errors
/// `Altered` or `TooLong`.
pub fn decompress(bytes: &[u8], limit: u64) -> Result<Vec<u8>, SealError> {
    read_bounded(zstd::stream::read::Decoder::new(bytes).map_err(SealError::Altered)?, limit)
}

fn read_bounded(reader: impl Read, limit: u64) -> Result<Vec<u8>, SealError> {
    let mut plain = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut plain).map_err(SealError::Altered)?;
    if plain.len() as u64 > limit {
        return Err(SealError::TooLong { limit });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_its_key_only() {
        let (key, other) = (Identity::generate(), Identity::generate());
        let sealed = seal(&key.to_public(), 1, b"tenant's bytes").unwrap();
        assert_eq!(open(&key, &sealed, 100).unwrap(), b"tenant's bytes");
        assert!(matches!(open(&other, &sealed, 100), Err(SealError::WrongKey)));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let key = Identity::generate();
        let sealed = seal(&key.to_public(), 1, &[7; 300]).unwrap();
        for at in 0..sealed.len() {
            assert!(open(&key, &sealed[..at], 1000).is_err(), "cut at {at}");
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(open(&key, &altered, 1000).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn a_bomb_is_refused_at_its_limit() {
        let key = Identity::generate();
        let sealed = seal(&key.to_public(), 1, &vec![0; 64 << 20]).unwrap();
        assert!(sealed.len() < 10_000);
        assert!(matches!(open(&key, &sealed, 1 << 20), Err(SealError::TooLong { limit: 1_048_576 })));
    }

    #[test]
    fn the_standard_tools_open_it() {
        let key = Identity::generate();
        let folder = tempfile::tempdir().unwrap();
        let (key_file, sealed_file) = (folder.path().join("key"), folder.path().join("sealed"));
        std::fs::write(&key_file, age::secrecy::ExposeSecret::expose_secret(&key.to_string())).unwrap();
        std::fs::write(&sealed_file, seal(&key.to_public(), 1, b"read me by hand").unwrap()).unwrap();
        let script = format!("age -d -i {} {} | zstd -dc", key_file.display(), sealed_file.display());
        let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(out.stdout, b"read me by hand");
    }
}
