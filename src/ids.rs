//! The names of things: newtypes that make a wrong call not compile.
//!
//! An LSN is not a length, a scope is not a path, a digest is not a name. Every type here prints the way
//! people and other tools write it (`16/B374D848`, `tenant/acme`), parses what it prints, and is a plain
//! string in JSON. Nothing here reads, computes or decides.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not what it should be the name of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {wanted}")]
pub struct IdError {
    pub text: String,
    pub wanted: &'static str,
}

fn bad(text: &str, wanted: &'static str) -> IdError {
    IdError { text: text.to_owned(), wanted }
}

macro_rules! string_serde {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A position in a cluster's WAL, in bytes from its beginning (PostgreSQL `XLogRecPtr`; printed as `%X/%X`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position `bytes` further on.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// How many bytes lie between `earlier` and this position (0 when it is not earlier).
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The form used in object names: 16 hex digits, so that names sort as positions do.
    #[must_use]
    pub fn sortable(self) -> String {
        format!("{:016X}", self.0)
    }

    /// Reads what [`Lsn::sortable`] wrote.
    ///
    /// # Errors
    /// When `text` is not 16 hex digits.
    pub fn from_sortable(text: &str) -> Result<Self, IdError> {
        if text.len() != 16 {
            return Err(bad(text, "an LSN of 16 hex digits"));
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| bad(text, "an LSN of 16 hex digits"))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || bad(text, "an LSN like 16/B374D848");
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let half = |part: &str| {
            if part.is_empty() || part.len() > 8 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            u64::from_str_radix(part, 16).map_err(|_| wrong())
        };
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}
string_serde!(Lsn);

/// The system identifier that `initdb` gave a cluster (`pg_control`, `IDENTIFY_SYSTEM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl FromStr for SystemId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(Self).map_err(|_| bad(text, "a system identifier"))
    }
}
string_serde!(SystemId);

/// A timeline number (PostgreSQL `TimeLineID`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A database's OID (`pg_database.oid`); 0 stands for the shared catalogs, as it does in WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DbOid(pub u32);

impl fmt::Display for DbOid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A SHA-256 of some bytes; 64 hex digits in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).map_err(|_| bad(text, "a SHA-256 (64 hex digits)"))?;
        Ok(Self(out))
    }
}
string_serde!(Digest);

/// The letters a tenant, a cluster or a source may be named with: they become parts of object names and paths.
#[must_use]
pub fn is_plain_name(text: &str) -> bool {
    let first_is_fine = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    first_is_fine
        && text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

/// Who a byte belongs to; every sealed thing has exactly one (`docs/FORMAT.md`, Scopes).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// One tenant: its databases, files, access and references.
    Tenant(String),
    /// What a cluster's databases share: catalogs, transaction state, system databases, no-op WAL.
    Cluster(String),
    /// Configuration, operators, audit.
    Estate,
    /// Bytes of a cluster that no restore needs, kept so that all scopes together are bit-exact.
    Residue(String),
    /// WAL of a cluster that nobody understands yet.
    Quarantine(String),
    /// A key made beforehand, for a database that nobody mapped.
    Spare(u32),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(id) => write!(f, "tenant/{id}"),
            Self::Cluster(name) => write!(f, "cluster/{name}"),
            Self::Estate => f.write_str("estate"),
            Self::Residue(name) => write!(f, "residue/{name}"),
            Self::Quarantine(name) => write!(f, "quarantine/{name}"),
            Self::Spare(n) => write!(f, "spare/{n}"),
        }
    }
}

impl FromStr for Scope {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || bad(text, "a scope like tenant/acme, cluster/main, estate or spare/1");
        if text == "estate" {
            return Ok(Self::Estate);
        }
        let (kind, name) = text.split_once('/').ok_or_else(wrong)?;
        if !is_plain_name(name) {
            return Err(wrong());
        }
        Ok(match kind {
            "tenant" => Self::Tenant(name.to_owned()),
            "cluster" => Self::Cluster(name.to_owned()),
            "residue" => Self::Residue(name.to_owned()),
            "quarantine" => Self::Quarantine(name.to_owned()),
            "spare" => Self::Spare(name.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        })
    }
}
string_serde!(Scope);

/// What a command acts as: each has its own credential with the least rights (`lifeboat init --print-policies`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// `backup`, `stream`: puts, extends locks, reads envelopes and its own chunk maps.
    Writer,
    /// `restore`, `drill`, `points`, `status`: lists and reads.
    Reader,
    /// `expire`: lists, reads envelopes, removes what no lock covers.
    Janitor,
    /// `verify`: lists and reads everything; renews the locks of keys.
    Verifier,
    /// `hold`, `unhold`: legal holds.
    Holder,
    /// `key shred`: removes keys from the keys stores.
    KeyEraser,
}

impl Role {
    pub const ALL: [Self; 6] =
        [Self::Writer, Self::Reader, Self::Janitor, Self::Verifier, Self::Holder, Self::KeyEraser];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Janitor => "janitor",
            Self::Verifier => "verifier",
            Self::Holder => "holder",
            Self::KeyEraser => "key-eraser",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_lsn_prints_as_postgresql_does_and_reads_back() {
        let lsn = Lsn(0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse::<Lsn>().unwrap(), lsn);
        assert_eq!(Lsn::from_sortable(&lsn.sortable()).unwrap(), lsn);
    }

    #[test]
    fn what_is_not_an_lsn_is_refused() {
        for text in ["", "/", "1", "1/", "/1", "1/123456789", "g/1", "+1/2", "1/2/3"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_scope_reads_back_and_cannot_leave_its_prefix() {
        for text in ["tenant/acme", "cluster/main", "estate", "residue/main", "quarantine/main", "spare/7"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in ["tenant/", "tenant/..", "tenant/a/b", "tenant/Acme", "spare/x", "other/a", ""] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }
}
