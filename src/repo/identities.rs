//! The keys that read: one age identity per scope and epoch, in a folder.
//!
//! `<folder>/<scope>/<epoch>.age`, each a plain age identity file (`AGE-SECRET-KEY-1...` with comment lines), so that
//! `age -d -i FOLDER/tenant/acme/1.age` takes it. A file is opened when its scope is first asked for, never before: what was
//! not asked for is not decrypted. What the erasure ledger says is gone is refused, wherever a copy of its key turns up. Not here: who may
//! have them (`authority`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::key::{KeyError, read_secret};
use crate::ids::Scope;

/// A folder of scope identities, and which of them were used.
pub struct Identities {
    folder: Option<PathBuf>,
    /// Handed over in memory: what a drill host opened for itself.
    given: BTreeMap<(Scope, u32), Identity>,
    erased: BTreeMap<(Scope, u32), Timestamp>,
    used: Mutex<BTreeMap<(Scope, u32), Identity>>,
}

/// Where the identity of a scope's epoch lies below `folder`.
#[must_use]
pub fn identity_path(folder: &Path, scope: &Scope, epoch: u32) -> PathBuf {
    folder.join(scope.to_string()).join(format!("{epoch}.age"))
}

impl Identities {
    /// Uses the identities in `folder`; with `None` there are none and every unlock fails.
    #[must_use]
    pub fn open(folder: Option<&Path>) -> Self {
        let (given, erased) = (BTreeMap::new(), BTreeMap::new());
        Self { folder: folder.map(Path::to_owned), given, erased, used: Mutex::default() }
    }

    /// Refuses what was erased, with the time at which that was asked for.
    #[must_use]
    pub fn refusing(mut self, erased: BTreeMap<(Scope, u32), Timestamp>) -> Self {
        self.erased.extend(erased);
        self
    }

    /// Uses these besides those of the folder; they are never written down.
    #[must_use]
    pub fn with(self, given: BTreeMap<(Scope, u32), Identity>) -> Self {
        Self { given, ..self }
    }

    /// The identity that opens what is sealed to `epoch` of `scope`. A wrong one shows when it is used.
    ///
    /// # Errors
    /// `Absent` when there is none, `Malformed`, `Exposed` or `Io` when its file is not good.
    pub fn unlock(&self, scope: &Scope, epoch: u32) -> Result<Identity, KeyError> {
        let key = (scope.clone(), epoch);
        if let Some(since) = self.erased.get(&key) {
            return Err(KeyError::Erased { scope: scope.clone(), epoch, since: *since });
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = used.get(&key) {
            return Ok(identity.clone());
        }
        if let Some(identity) = self.given.get(&key) {
            used.insert(key, identity.clone());
            return Ok(identity.clone());
        }
        let absent = |looked| KeyError::Absent { scope: scope.clone(), epoch, looked };
        let Some(folder) = &self.folder else {
            return Err(absent("no folder of identities, none is configured".into()));
        };
        let path = identity_path(folder, scope, epoch);
        let identity = match read_secret(&path) {
            Ok(text) => parse_identity(&text, &path)?,
            Err(KeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(absent(path.display().to_string()));
            }
            Err(error) => return Err(error),
        };
        used.insert(key, identity.clone());
        Ok(identity)
    }

    /// Whether the identity of `epoch` of `scope` is here and may be used, without opening it.
    #[must_use]
    pub fn has(&self, scope: &Scope, epoch: u32) -> bool {
        let key = (scope.clone(), epoch);
        if self.erased.contains_key(&key) || self.given.contains_key(&key) {
            return !self.erased.contains_key(&key);
        }
        self.folder.as_ref().is_some_and(|folder| identity_path(folder, scope, epoch).is_file())
    }

    /// The scopes whose keys were used.
    #[must_use]
    pub fn opened(&self) -> BTreeSet<Scope> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).keys().map(|(scope, _)| scope.clone()).collect()
    }
}

/// Reads an age identity file, with one X25519 key in it.
///
/// # Errors
/// `Io`, `Exposed` when everybody may read it, `Malformed`.
pub fn read_identity(path: &Path) -> Result<Identity, KeyError> {
    parse_identity(&read_secret(path)?, path)
}

/// Parses an age identity file; `path` is for messages, which never repeat what is in it.
///
/// # Errors
/// `Malformed`.
pub fn parse_identity(text: &str, path: &Path) -> Result<Identity, KeyError> {
    let bad = |what: &str| KeyError::Malformed { path: path.to_owned(), what: what.to_owned() };
    let mut keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let key = keys.next().ok_or_else(|| bad("there is no key in it"))?;
    if keys.next().is_some() {
        return Err(bad("there is more than one key in it"));
    }
    key.parse().map_err(bad)
}

/// An age identity file as `age -i` takes it, with a line on what it opens.
#[must_use]
pub fn identity_text(opens: &str, identity: &Identity) -> Zeroizing<String> {
    let (secret, public) = (identity.to_string(), identity.to_public());
    // One allocation of the right size: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(opens.len() + secret.expose_secret().len() + 128));
    for part in
        ["# lifeboat: opens ", opens, "\n# public key: ", &public.to_string(), "\n", secret.expose_secret(), "\n"]
    {
        text.push_str(part);
    }
    text
}

/// What the file of a scope's identity says of itself.
#[must_use]
pub fn scope_identity_text(scope: &Scope, epoch: u32, identity: &Identity) -> Zeroizing<String> {
    let opens = format!("{scope}, epoch {epoch}. Whoever has this file reads that scope's backups.");
    identity_text(&opens, identity)
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("folder", &self.folder).finish_non_exhaustive()
    }
}
