//! The writer bundle: everything a backup machine holds, none of which opens data.
//!
//! A JSON file, mode 0600:
//! ```text
//! { "format": 1, "writer": "writer-1a2b3c4d",
//!   "signing_key": "-----BEGIN OPENSSH PRIVATE KEY-----...",     signs envelopes
//!   "chunk_map_identity": "AGE-SECRET-KEY-1...",                 opens this writer's chunk maps, nothing else
//!   "scopes": { "tenant/acme": { "epoch": 1, "recipient": "age1...", "chunk_key": "<64 hex>" } },
//!   "spares": ["spare/1"],
//!   "erased": { "tenant/gone": 2 } }                             nothing is sealed to this epoch or an earlier one again
//! ```
//! It can seal, sign and recognise content it has already stored; it can read nothing. The keys that read are
//! [`super::identities`]; both are born in [`super::ceremony`].

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret as _;
use age::x25519::{Identity, Recipient};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ssh_key::{LineEnding, PrivateKey};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::chunk::ChunkKey;
use crate::failure::{self, Failure, Kind};
use crate::ids::Scope;

/// What goes wrong with keys. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The identity that opens a scope is not among those given.
    #[error("the key of {scope} (epoch {epoch}) is not here: looked in {looked}")]
    Absent { scope: Scope, epoch: u32, looked: String },
    /// The erasure ledger says that this key was destroyed on purpose.
    #[error("epoch {epoch} of {scope} was erased: its destruction was asked for at {since}")]
    Erased { scope: Scope, epoch: u32, since: Timestamp },
    #[error("{path}: not a key file of this format: {what}", path = path.display())]
    Malformed { path: PathBuf, what: String },
    #[error("{path}: everybody on this machine may read it", path = path.display())]
    Exposed { path: PathBuf },
    #[error("{path}: exists already", path = path.display())]
    Exists { path: PathBuf },
    #[error("{path}: cannot be read or written", path = path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the writer bundle has no key for {scope}")]
    Unknown { scope: Scope },
    #[error("{scope} was erased (epoch {epoch} was its last): nothing is sealed to it any more")]
    Gone { scope: Scope, epoch: u32 },
    #[error("the writer bundle has a key for {scope} already")]
    Twice { scope: Scope },
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    #[error("an SSH key could not be made or written")]
    Ssh(#[from] ssh_key::Error),
}

impl From<getrandom::Error> for KeyError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let cause = failure::chain(&error);
        let path = |path: &Path| path.display().to_string();
        let (kind, object, next) = match &error {
            KeyError::Absent { scope, .. } => {
                let next = "open it with its custodians (`lifeboat key open`), or put its file into the folder that \
                            keys.identities names";
                return Self::new(Kind::Integrity, scope.to_string(), cause, next);
            }
            KeyError::Erased { scope, .. } => {
                let next = "nothing of it may be opened again; if a copy of its key is here, destroy that too";
                return Self::new(Kind::Refused, scope.to_string(), cause, next);
            }
            KeyError::Malformed { path: file, .. } => {
                (Kind::Integrity, path(file), "bring the file back from where keys are kept")
            }
            KeyError::Exposed { path: file } => {
                (Kind::Usage, path(file), "chmod 0600 it, and consider whether somebody has read it")
            }
            KeyError::Exists { path: file } => {
                (Kind::Usage, path(file), "keys are never overwritten: choose another place, or move the old ones away")
            }
            KeyError::Io { path: file, .. } => (Kind::Usage, path(file), "check the path and who may read it"),
            KeyError::Unknown { scope } => (Kind::Usage, scope.to_string(), "make one with 'lifeboat key new'"),
            KeyError::Gone { scope, .. } => {
                let next = "take it out of the configuration, or begin it anew with 'lifeboat key new'";
                (Kind::Usage, scope.to_string(), next)
            }
            KeyError::Twice { scope } => (Kind::Usage, scope.to_string(), "it needs no second one"),
            KeyError::Random(_) | KeyError::Ssh(_) => (Kind::Failed, "keys".to_owned(), "run the command again"),
        };
        let cause = cause.strip_prefix(&format!("{object}: ")).unwrap_or(&cause).to_owned();
        Self::new(kind, object, cause, next)
    }
}

/// What a writer knows of one scope: enough to seal for it and to recognise its content.
#[derive(Clone)]
pub struct ScopeKeys {
    pub epoch: u32,
    pub recipient: Recipient,
    pub chunk_key: ChunkKey,
}

/// Everything a backup machine holds. Debug shows names only.
#[derive(Clone)]
pub struct WriterBundle {
    pub writer: String,
    pub signing: PrivateKey,
    pub chunk_map: Identity,
    pub scopes: BTreeMap<Scope, ScopeKeys>,
    /// Scopes made beforehand, for databases that nobody mapped; each is in `scopes` too.
    pub spares: Vec<Scope>,
    /// Scopes that were erased, with their last epoch: nothing is sealed to it again.
    pub erased: BTreeMap<Scope, u32>,
}

/// The file, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleFile {
    format: u32,
    writer: String,
    signing_key: SecretText,
    chunk_map_identity: SecretText,
    scopes: BTreeMap<Scope, ScopeFile>,
    spares: Vec<Scope>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    erased: BTreeMap<Scope, u32>,
}

/// A key as text, wiped when it is dropped.
#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
#[serde(transparent)]
struct SecretText(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeFile {
    epoch: u32,
    recipient: String,
    chunk_key: ChunkKey,
}

impl WriterBundle {
    /// Reads a bundle file.
    ///
    /// # Errors
    /// `Io`, `Exposed` when everybody may read it, `Malformed`.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::parse(&read_secret(path)?, path)
    }

    /// Parses a bundle; `path` is for messages.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, KeyError> {
        let bad = |what: String| KeyError::Malformed { path: path.to_owned(), what };
        // serde_json's message may quote the text it stumbled over, which may be a key: only the place is passed on.
        let file: BundleFile = serde_json::from_str(text)
            .map_err(|error| bad(format!("line {}, column {}", error.line(), error.column())))?;
        if file.format != 1 {
            return Err(bad(format!("format {} is not known to this version", file.format)));
        }
        let mut scopes = BTreeMap::new();
        for (scope, keys) in file.scopes {
            let recipient = keys.recipient.parse().map_err(|what| bad(format!("recipient of {scope}: {what}")))?;
            scopes.insert(scope, ScopeKeys { epoch: keys.epoch, recipient, chunk_key: keys.chunk_key });
        }
        if let Some(spare) = file.spares.iter().find(|spare| !scopes.contains_key(spare)) {
            return Err(bad(format!("{spare} is listed as a spare and has no key")));
        }
        Ok(Self {
            writer: file.writer,
            signing: PrivateKey::from_openssh(file.signing_key.0.as_bytes())
                .map_err(|error| bad(format!("signing key: {error}")))?,
            chunk_map: file.chunk_map_identity.0.parse().map_err(|what| bad(format!("chunk map identity: {what}")))?,
            scopes,
            spares: file.spares,
            erased: file.erased,
        })
    }

    /// The bundle as its file's text.
    ///
    /// # Errors
    /// `Ssh` or `Malformed`, when a key cannot be written out.
    pub fn to_text(&self) -> Result<Zeroizing<String>, KeyError> {
        let scopes = self.scopes.iter().map(|(scope, keys)| {
            let recipient = keys.recipient.to_string();
            (scope.clone(), ScopeFile { epoch: keys.epoch, recipient, chunk_key: keys.chunk_key.clone() })
        });
        let file = BundleFile {
            format: 1,
            writer: self.writer.clone(),
            signing_key: SecretText(self.signing.to_openssh(LineEnding::LF)?.to_string()),
            chunk_map_identity: SecretText(self.chunk_map.to_string().expose_secret().to_owned()),
            scopes: scopes.collect(),
            spares: self.spares.clone(),
            erased: self.erased.clone(),
        };
        serde_json::to_string_pretty(&file)
            .map(Zeroizing::new)
            .map_err(|_| KeyError::Malformed { path: PathBuf::from("writer bundle"), what: "not JSON".into() })
    }

    /// Forgets the keys of a scope up to `epoch`: nothing is sealed to them again. True when there was something to forget.
    pub fn erase(&mut self, scope: &Scope, epoch: u32) -> bool {
        let last = self.erased.entry(scope.clone()).or_insert(0);
        let newly = *last < epoch;
        *last = epoch.max(*last);
        let had = self.scopes.get(scope).is_some_and(|keys| keys.epoch <= epoch);
        if had {
            self.scopes.remove(scope);
            self.spares.retain(|spare| spare != scope);
        }
        had || newly
    }

    /// Whether the scope was erased and has no new key.
    #[must_use]
    pub fn is_erased(&self, scope: &Scope) -> bool {
        self.erased.contains_key(scope) && !self.scopes.contains_key(scope)
    }

    /// What is needed to seal for `scope`.
    ///
    /// # Errors
    /// `Unknown`, `Gone` when it was erased.
    pub fn keys(&self, scope: &Scope) -> Result<&ScopeKeys, KeyError> {
        self.scopes.get(scope).ok_or_else(|| match self.erased.get(scope) {
            Some(epoch) => KeyError::Gone { scope: scope.clone(), epoch: *epoch },
            None => KeyError::Unknown { scope: scope.clone() },
        })
    }
}

impl fmt::Debug for WriterBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scopes: Vec<String> = self.scopes.keys().map(Scope::to_string).collect();
        f.debug_struct("WriterBundle").field("writer", &self.writer).field("scopes", &scopes).finish_non_exhaustive()
    }
}

/// Reads a file of secrets, refusing one that everybody may read.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.permissions().mode() & 0o007 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned() });
    }
    std::io::read_to_string(file).map(Zeroizing::new).map_err(io)
}
