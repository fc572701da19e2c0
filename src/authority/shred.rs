//! Crypto-shredding: the keys of a scope destroyed wherever they are known to be, each place confirmed, all of it in the ledger.
//!
//! ```text
//! requested ──▶ store A gone, store B gone, each registered copy gone (in any order) ──▶ complete
//! ```
//! The request is written first, and from then on nothing opens or seals those epochs. Key files are locked like everything else and nobody
//! may lift a lock: they are renewed no more, and go when they lapse (`docs/decisions/0007`). Until then a shredding is pending, and says so. Every step can be run
//! again; what is done is found done. Sealed data stays where it is until its own locks lapse, and nobody can read it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::copies;
use super::key_name::KeyName;
use super::key_stores::{KeyStore, KeyStoreError, KeyStores};
use super::ssh::{self, SshError};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::erasure::{self, Confirmed, Entry, Erasure, ErasureError, Event, Ledger};
use crate::repo::sign::Signers;
use crate::store::{Listed, Store, StoreError};

/// What goes wrong with an erasure.
#[derive(Debug, thiserror::Error)]
pub enum ShredError {
    #[error(transparent)]
    Ledger(#[from] ErasureError),
    #[error(transparent)]
    Stores(#[from] KeyStoreError),
    #[error(transparent)]
    Ssh(#[from] SshError),
    #[error("nobody has ever had a key of {scope}: there is nothing to destroy")]
    Nothing { scope: Scope },
    #[error("the erasure of {scope} knows no copy '{copy}'")]
    NoCopy { scope: Scope, copy: String },
    #[error("the signature is not the holder's, over the words that the erasure asks of him")]
    NotConfirmed { copy: String },
}

impl From<ShredError> for Failure {
    fn from(error: ShredError) -> Self {
        let cause = error.to_string();
        match error {
            ShredError::Ledger(error) => error.into(),
            ShredError::Stores(error) => error.into(),
            ShredError::Ssh(error) => error.into(),
            ShredError::Nothing { scope } => Self::new(Kind::Usage, scope.to_string(), cause, "check the scope's name"),
            ShredError::NoCopy { copy, .. } => {
                Self::new(Kind::Usage, copy, cause, "see the names in `lifeboat key shred SCOPE --dry-run`")
            }
            ShredError::NotConfirmed { copy } => {
                let next = "have him sign the statement that `lifeboat key shred SCOPE --dry-run` prints, with the key he was registered with";
                Self::new(Kind::Refused, copy, cause, next)
            }
        }
    }
}

/// What an erasure works with. The ledger lies in the data's store.
pub struct Shredder<'a> {
    pub store: &'a dyn Store,
    pub erasers: &'a Signers,
    /// The eraser's SSH key.
    pub key: &'a Path,
    pub stores: &'a KeyStores,
    pub now: Timestamp,
    /// How long the ledger's entries are locked: longer than anything of the scope.
    pub locked_until: Timestamp,
}

/// How one keys store stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub store: String,
    pub gone: bool,
    /// Files that were removed just now.
    pub removed: usize,
    /// Files that are still there, and when the last of their locks ends.
    pub left: usize,
    pub locked_until: Option<Timestamp>,
    /// Why nothing could be done there.
    pub trouble: Option<String>,
}

/// Every epoch of a scope that a keys store has a key of, besides those `known` here.
///
/// # Errors
/// Of the stores.
pub async fn epochs(
    stores: &KeyStores,
    scope: &Scope,
    known: impl IntoIterator<Item = u32>,
) -> Result<BTreeSet<u32>, KeyStoreError> {
    let names = stores.names(&format!("{scope}/")).await?;
    Ok(names.iter().filter_map(KeyName::identity_of).map(|(_, epoch)| epoch).chain(known).collect())
}

impl Shredder<'_> {
    async fn append(&self, scope: &Scope, id: Option<&str>, event: Event) -> Result<Entry, ShredError> {
        let sign = async |bytes: &[u8]| Ok(ssh::sign(self.key, erasure::NAMESPACE, bytes).await?);
        let times = (self.now, self.locked_until);
        erasure::append(self.store, self.erasers, (scope, id, event), times, sign).await
    }

    /// The erasure of `scope` as the ledger has it: the one under way, where there is one.
    ///
    /// # Errors
    /// Of the store.
    pub async fn find(&self, scope: &Scope) -> Result<Option<Erasure>, ShredError> {
        let erasures = Ledger::read(self.store, self.erasers).await?.erasures();
        let mut of_scope: Vec<Erasure> = erasures.into_iter().filter(|erasure| erasure.scope == *scope).collect();
        let pending = of_scope.iter().position(|erasure| !erasure.complete());
        Ok(pending.map(|at| of_scope.swap_remove(at)).or_else(|| of_scope.pop()))
    }

    /// Asks for the destruction of every key of `scope`, those known here (`known`) included. One that was asked for already, and
    /// covers them, is taken up again.
    ///
    /// # Errors
    /// `Nothing`, of the stores, or of signing.
    pub async fn request(&self, scope: &Scope, known: impl IntoIterator<Item = u32>) -> Result<Erasure, ShredError> {
        let erased = Ledger::read(self.store, self.erasers).await?.erased();
        let epochs = epochs(self.stores, scope, known).await?;
        let new: BTreeSet<u32> =
            epochs.into_iter().filter(|epoch| !erased.contains_key(&(scope.clone(), *epoch))).collect();
        let nothing = || ShredError::Nothing { scope: scope.clone() };
        if new.is_empty() {
            return self.find(scope).await?.ok_or_else(nothing);
        }
        let copies = copies::of(self.stores, scope).await?;
        let event = Event::Requested {
            epochs: new,
            stores: self.stores.0.iter().map(|store| store.name.clone()).collect(),
            copies: copies.into_iter().map(|(name, copy)| (name, copy.key)).collect(),
        };
        let entry = self.append(scope, None, event).await?;
        let found = Ledger::read(self.store, self.erasers).await?.erasures();
        found.into_iter().find(|erasure| erasure.id == entry.erasure).ok_or_else(nothing)
    }

    /// Removes what locks allow by now, and records each store that has nothing left. A store that does not answer keeps nobody
    /// from the other one.
    ///
    /// # Errors
    /// Of the ledger's store, or of signing.
    pub async fn advance(&self, erasure: &Erasure) -> Result<Vec<Standing>, ShredError> {
        let mut standings = Vec::new();
        for (name, gone) in &erasure.stores {
            let mut standing =
                Standing { store: name.clone(), gone: *gone, removed: 0, left: 0, locked_until: None, trouble: None };
            if !gone {
                match self.stores.0.iter().find(|store| store.name == *name) {
                    None => standing.trouble = Some("it is not in the configuration, or does not answer".to_owned()),
                    Some(store) => match remove(store, erasure, &mut standing).await {
                        Ok(()) => standing.gone = standing.left == 0,
                        Err(error) => standing.trouble = Some(crate::failure::chain(&error)),
                    },
                }
                if standing.gone {
                    let event = Event::StoreGone { store: name.clone() };
                    self.append(&erasure.scope, Some(&erasure.id), event).await?;
                }
            }
            standings.push(standing);
        }
        Ok(standings)
    }

    /// Records that a registered copy is gone. A statement must be its holder's.
    ///
    /// # Errors
    /// `NoCopy`, `NotConfirmed`, or of the ledger.
    pub async fn confirm(&self, erasure: &Erasure, copy: &str, confirmed: Confirmed) -> Result<(), ShredError> {
        match erasure.copies.get(copy) {
            None => return Err(ShredError::NoCopy { scope: erasure.scope.clone(), copy: copy.to_owned() }),
            Some(true) => return Ok(()),
            Some(false) => {}
        }
        if let Confirmed::Statement { text, signature } = &confirmed
            && !(*text == copies::statement(erasure, copy) && copies::confirms(erasure, copy, signature))
        {
            return Err(ShredError::NotConfirmed { copy: copy.to_owned() });
        }
        let event = Event::CopyGone { copy: copy.to_owned(), confirmed };
        self.append(&erasure.scope, Some(&erasure.id), event).await.map(drop)
    }
}

/// The files of one store that hold keys of the erased epochs.
///
/// # Errors
/// Of the store.
pub async fn files(store: &KeyStore, erasure: &Erasure) -> Result<BTreeMap<KeyName, Vec<Listed>>, KeyStoreError> {
    let mut names = store.names(&format!("{}/", erasure.scope)).await?;
    names.retain(|name, _| {
        name.identity_of().is_some_and(|(scope, epoch)| *scope == erasure.scope && erasure.epochs.contains(&epoch))
    });
    Ok(names)
}

async fn remove(store: &KeyStore, erasure: &Erasure, standing: &mut Standing) -> Result<(), KeyStoreError> {
    let failed = |source| KeyStoreError::Store { store: store.name.clone(), source };
    for listed in files(store, erasure).await?.into_values().flatten() {
        match store.store.remove(&listed.name, &listed.version).await {
            Ok(()) => standing.removed += 1,
            Err(StoreError::NotFound { .. }) => {}
            Err(StoreError::Locked { .. }) => {
                let lock = store.store.lock_state(&listed.name, &listed.version).await.map_err(failed)?;
                standing.locked_until = standing.locked_until.max(lock.retained_until);
            }
            Err(source) => return Err(failed(source)),
        }
    }
    // Not what was removed counts, but what is seen to be left.
    standing.left = files(store, erasure).await?.values().map(Vec::len).sum();
    Ok(())
}
