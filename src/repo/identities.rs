//! The keys that read: one age identity per scope and epoch, in a folder.
//!
//! `<folder>/<scope>/<epoch>.age`, each a plain age identity file (`AGE-SECRET-KEY-1...` with comment lines), so that
//! `age -d -i FOLDER/tenant/acme/1.age` takes it. A file is opened when its scope is first asked for, never before: what was
//! not asked for is not decrypted. Not here: who may have them (`authority`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use age::x25519::Identity;

use super::key::{KeyError, read_secret};
use crate::ids::Scope;

/// A folder of scope identities, and which of them were used.
pub struct Identities {
    folder: Option<PathBuf>,
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
        Self { folder: folder.map(Path::to_owned), used: Mutex::default() }
    }

    /// The identity that opens what is sealed to `epoch` of `scope`. A wrong one shows when it is used.
    ///
    /// # Errors
    /// `Absent` when there is none, `Malformed`, `Exposed` or `Io` when its file is not good.
    pub fn unlock(&self, scope: &Scope, epoch: u32) -> Result<Identity, KeyError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = used.get(&(scope.clone(), epoch)) {
            return Ok(identity.clone());
        }
        let absent = |looked| KeyError::Absent { scope: scope.clone(), epoch, looked };
        let Some(folder) = &self.folder else {
            return Err(absent("no folder of identities, none is configured".into()));
        };
        let path = identity_path(folder, scope, epoch);
        let identity = match read_secret(&path) {
            Ok(text) => parse(&text, &path)?,
            Err(KeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(absent(path.display().to_string()));
            }
            Err(error) => return Err(error),
        };
        used.insert((scope.clone(), epoch), identity.clone());
        Ok(identity)
    }

    /// Whether the identity of `epoch` of `scope` is here, without opening it.
    #[must_use]
    pub fn has(&self, scope: &Scope, epoch: u32) -> bool {
        self.folder.as_ref().is_some_and(|folder| identity_path(folder, scope, epoch).is_file())
    }

    /// The scopes whose keys were used.
    #[must_use]
    pub fn opened(&self) -> BTreeSet<Scope> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).keys().map(|(scope, _)| scope.clone()).collect()
    }
}

fn parse(text: &str, path: &Path) -> Result<Identity, KeyError> {
    let bad = |what: &str| KeyError::Malformed { path: path.to_owned(), what: what.to_owned() };
    let mut keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let key = keys.next().ok_or_else(|| bad("there is no key in it"))?;
    if keys.next().is_some() {
        return Err(bad("there is more than one key in it"));
    }
    key.parse().map_err(bad)
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("folder", &self.folder).finish_non_exhaustive()
    }
}
