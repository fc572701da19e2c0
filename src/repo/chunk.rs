//! A piece of content and the id it is known by.
//!
//! The id is HMAC-SHA256 (RFC 2104, FIPS 180-4) of the plaintext under a key of the scope's epoch: equal content has equal ids within a scope,
//! and nobody without the key can confirm a guess. Ids appear only inside sealed objects.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use crate::ids::IdError;

/// The largest chunk a writer makes and a reader accepts, in bytes: bounds memory on both sides, hostile packs included.
pub const MAX_CHUNK_BYTES: usize = 64 << 20;

/// The key of a scope's chunk ids; 64 hex digits in text. Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct ChunkKey([u8; 32]);

impl ChunkKey {
    /// A new random key.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = Self([0; 32]);
        getrandom::fill(&mut key.0)?;
        Ok(key)
    }

    /// The id of `content` under this key.
    #[must_use]
    pub fn id(&self, content: &[u8]) -> ChunkId {
        // A fixed 64-byte key is what HMAC pads ours to; this constructor cannot fail.
        let mut mac = self.mac();
        mac.update(content);
        ChunkId(mac.finalize().into_bytes().into())
    }

    /// A key for another purpose, which says nothing about this one.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut mac = self.mac();
        mac.update(b"lifeboat derived key: ");
        mac.update(purpose.as_bytes());
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    fn mac(&self) -> Hmac<Sha256> {
        let mut padded = [0; 64];
        padded[..32].copy_from_slice(&self.0);
        let mac = Hmac::<Sha256>::new(&padded.into());
        padded.zeroize();
        mac
    }
}

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkKey(..)")
    }
}

impl Serialize for ChunkKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = zeroize::Zeroizing::new(hex::encode(self.0));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for ChunkKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = zeroize::Zeroizing::new(String::deserialize(deserializer)?);
        let mut key = Self([0; 32]);
        hex::decode_to_slice(text.as_bytes(), &mut key.0)
            .map_err(|_| serde::de::Error::custom("a chunk key is 64 hex digits"))?;
        Ok(key)
    }
}

/// What a chunk is known by; 64 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}
impl FromStr for ChunkId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut id = [0; 32];
        let wanted = "a chunk id (64 hex digits)";
        hex::decode_to_slice(text, &mut id).map_err(|_| IdError { text: text.to_owned(), wanted })?;
        Ok(Self(id))
    }
}
impl Serialize for ChunkId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for ChunkId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether `content` is zeros only; such chunks are not stored.
#[must_use]
pub fn is_zero(content: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    content.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_standard_hmac() {
        // RFC 4231 test case 1 has a 20-byte key of 0x0b, which HMAC pads with zeros as it would ours.
        let mut key = ChunkKey([0; 32]);
        key.0[..20].fill(0x0b);
        let wanted = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(key.id(b"Hi There").to_string(), wanted);
    }

    #[test]
    fn two_scopes_never_share_ids_and_a_key_does_not_show_itself() {
        let (one, other) = (ChunkKey::generate().unwrap(), ChunkKey::generate().unwrap());
        assert_ne!(one.id(b"same"), other.id(b"same"));
        assert_eq!(format!("{one:?}"), "ChunkKey(..)");
    }

    #[test]
    fn zeros_are_recognised_at_any_length() {
        for length in [0, 1, 4095, 4096, 4097, 131_072] {
            let mut content = vec![0; length];
            assert!(is_zero(&content));
            if let Some(last) = content.last_mut() {
                *last = 1;
                assert!(!is_zero(&content));
            }
        }
    }
}
