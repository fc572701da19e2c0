//! Two stores for key files, under different administrators: written together, read from whichever has it.
//!
//! A file counts as kept when both stores have given it back, byte for byte and with its lock. Both are asked before either is
//! written, so that one that is down leaves nothing half made; what a crash leaves in one store only is never sealed to, because its epoch
//! is not used again. Reading takes every version of each store: whoever can write to one of them can put junk on top, and no more.
//!
//! Not here: what the files hold, and who can open them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};

use super::key_name::KeyName;
use crate::failure::{self, Failure, Kind};
use crate::repo::oldest_first;
use crate::store::{Listed, LockState, Store, StoreError};

/// What goes wrong with keys stores.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    #[error("keys store '{store}'")]
    Store {
        store: String,
        #[source]
        source: StoreError,
    },
    #[error("there are {found} keys stores here and a key must lie in two")]
    NotTwo { found: usize },
    #[error("keys store '{store}' has a {name} already")]
    Exists { store: String, name: String },
    #[error("keys store '{store}' did not give {name} back as it was written")]
    ReadBack { store: String, name: String },
    #[error("keys store '{store}' did not lock {name} as it was asked to")]
    Unlocked { store: String, name: String },
}

impl From<KeyStoreError> for Failure {
    fn from(error: KeyStoreError) -> Self {
        let cause = failure::chain(&error);
        let (kind, object, next) = match error {
            KeyStoreError::Store { store, source } => {
                let below = Self::from(source);
                return Self {
                    object: format!("keys store {store}"),
                    cause: format!("{}: {}", below.object, below.cause),
                    ..below
                };
            }
            KeyStoreError::NotTwo { .. } => {
                let next = "give two [keys.stores.NAME], under different administrators";
                (Kind::Usage, "keys.stores".to_owned(), next)
            }
            KeyStoreError::Exists { name, .. } => {
                (Kind::Failed, name, "run the command again; the next number is taken")
            }
            KeyStoreError::ReadBack { store, .. } | KeyStoreError::Unlocked { store, .. } => {
                let next = "nothing was sealed to it; find out what this store does, or use another";
                (Kind::Integrity, format!("keys store {store}"), next)
            }
        };
        Self::new(kind, object, cause, next)
    }
}

/// One of the two.
#[derive(Debug, Clone)]
pub struct KeyStore {
    /// Its name in the configuration.
    pub name: String,
    pub store: Arc<dyn Store>,
}

/// Those that answer: two for writing, one is enough for reading.
#[derive(Debug, Clone, Default)]
pub struct KeyStores(pub Vec<KeyStore>);

/// How one store holds a file.
#[derive(Debug, Clone)]
pub struct Held {
    /// Every version, oldest first.
    pub versions: Vec<Listed>,
    /// The lock of the oldest version, which is the one that was written first.
    pub lock: LockState,
}

/// What lies where: by name, then by store.
pub type Inventory = BTreeMap<KeyName, BTreeMap<String, Held>>;

/// How many requests are under way at once: keys stores are small.
const REQUESTS: usize = 8;
/// The largest key file that is read, in bytes: they are a few hundred; a manifest names at most some hundreds of groups.
const MAX_BYTES: u64 = 1 << 20;
/// How many versions of one name are read: a forger may pile up junk, not make us read it for ever.
const VERSIONS: usize = 64;

impl KeyStore {
    fn error(&self, source: StoreError) -> KeyStoreError {
        KeyStoreError::Store { store: self.name.clone(), source }
    }

    /// The store's own clock.
    ///
    /// # Errors
    /// `Store`.
    pub async fn now(&self) -> Result<Timestamp, KeyStoreError> {
        self.store.now().await.map_err(|source| self.error(source))
    }

    /// Every version of a file, oldest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn versions(&self, name: &KeyName) -> Result<Vec<Listed>, KeyStoreError> {
        let name = name.to_string();
        let listing = self.store.list(&name).try_filter(|listed| std::future::ready(listed.name == name));
        let mut versions: Vec<Listed> = listing.try_collect().await.map_err(|source| self.error(source))?;
        oldest_first(&mut versions);
        Ok(versions)
    }

    /// The names of this store, with every version. What is no key file's name is left out.
    ///
    /// # Errors
    /// `Store`.
    pub async fn names(&self, prefix: &str) -> Result<BTreeMap<KeyName, Vec<Listed>>, KeyStoreError> {
        let mut found: BTreeMap<KeyName, Vec<Listed>> = BTreeMap::new();
        let mut listing = self.store.list(prefix);
        while let Some(listed) = listing.try_next().await.map_err(|source| self.error(source))? {
            if let Ok(name) = listed.name.parse() {
                found.entry(name).or_default().push(listed);
            }
        }
        for versions in found.values_mut() {
            oldest_first(versions);
        }
        Ok(found)
    }

    /// The contents of every version of a file, oldest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn read(&self, name: &KeyName) -> Result<Vec<Bytes>, KeyStoreError> {
        let mut contents = Vec::new();
        for listed in self.versions(name).await?.into_iter().filter(|v| v.bytes <= MAX_BYTES).take(VERSIONS) {
            match self.store.get(&listed.name, Some(&listed.version), None).await {
                Ok(bytes) => contents.push(bytes),
                Err(StoreError::NotFound { .. }) => {}
                Err(source) => return Err(self.error(source)),
            }
        }
        Ok(contents)
    }

    /// Writes one file, locked for `lock`, and reads it back.
    ///
    /// # Errors
    /// `Exists`, `ReadBack`, `Unlocked`, `Store`.
    pub async fn put(&self, name: &KeyName, bytes: &Bytes, lock: SignedDuration) -> Result<(), KeyStoreError> {
        let text = name.to_string();
        let until = after(self.now().await?, lock);
        let version = self.store.put(&text, bytes.clone(), until).await.map_err(|source| match source {
            StoreError::Exists { name } => KeyStoreError::Exists { store: self.name.clone(), name },
            source => self.error(source),
        })?;
        // Read before anybody trusts it: the version just written, and the lock it was to have.
        let back = self.store.get(&text, Some(&version), None).await.map_err(|source| self.error(source))?;
        let held = self.store.lock_state(&text, &version).await.map_err(|source| self.error(source))?;
        let (store, name) = (self.name.clone(), text);
        match held.retained_until {
            _ if back != *bytes => Err(KeyStoreError::ReadBack { store, name }),
            // Stores keep whole seconds.
            Some(retained) if after(retained, SignedDuration::from_secs(1)) >= until => Ok(()),
            _ => Err(KeyStoreError::Unlocked { store, name }),
        }
    }

    /// Makes the lock of every version of a file end at `until`.
    ///
    /// # Errors
    /// `Store`.
    pub async fn renew(&self, versions: &[Listed], until: Timestamp) -> Result<(), KeyStoreError> {
        for listed in versions.iter().take(VERSIONS) {
            match self.store.extend(&listed.name, &listed.version, until).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(source) => return Err(self.error(source)),
            }
        }
        Ok(())
    }

    async fn held(&self, versions: Vec<Listed>) -> Result<Held, KeyStoreError> {
        let mut lock = LockState::default();
        if let Some(oldest) = versions.first() {
            match self.store.lock_state(&oldest.name, &oldest.version).await {
                Ok(state) => lock = state,
                Err(StoreError::NotFound { .. }) => {}
                Err(source) => return Err(self.error(source)),
            }
        }
        Ok(Held { versions, lock })
    }
}

/// `length` after `time`, or as late as can be said.
#[must_use]
pub fn after(time: Timestamp, length: SignedDuration) -> Timestamp {
    time.checked_add(length).unwrap_or(Timestamp::MAX)
}

impl KeyStores {
    /// The two, where there are two.
    ///
    /// # Errors
    /// `NotTwo`.
    pub fn both(&self) -> Result<[&KeyStore; 2], KeyStoreError> {
        match self.0.as_slice() {
            [one, other] => Ok([one, other]),
            stores => Err(KeyStoreError::NotTwo { found: stores.len() }),
        }
    }

    /// Writes files into both stores, in order, each locked for `lock` and read back.
    ///
    /// # Guarantees
    /// When this returns, both stores have every file. When one of them does not answer, or has one of the names, nothing was written. When
    /// one fails half-way, what was written stays (it is locked) and must not be used.
    ///
    /// # Errors
    /// `NotTwo`, `Exists`, `ReadBack`, `Unlocked`, `Store`.
    pub async fn put(&self, files: &[(KeyName, Bytes)], lock: SignedDuration) -> Result<(), KeyStoreError> {
        let both = self.both()?;
        for store in both {
            store.now().await?;
            for (name, _) in files {
                if !store.versions(name).await?.is_empty() {
                    return Err(KeyStoreError::Exists { store: store.name.clone(), name: name.to_string() });
                }
            }
        }
        for (name, bytes) in files {
            for store in both {
                store.put(name, bytes, lock).await?;
            }
        }
        Ok(())
    }

    /// What the stores here hold, with locks.
    ///
    /// # Errors
    /// `Store`.
    pub async fn inventory(&self) -> Result<Inventory, KeyStoreError> {
        let mut inventory = Inventory::new();
        for store in &self.0 {
            let each = store.names("").await?.into_iter();
            let mut held =
                futures::stream::iter(each.map(|(name, versions)| async move {
                    Ok::<_, KeyStoreError>((name, store.held(versions).await?))
                }))
                .buffered(REQUESTS);
            while let Some((name, held)) = held.try_next().await? {
                inventory.entry(name).or_default().insert(store.name.clone(), held);
            }
        }
        Ok(inventory)
    }

    /// The names that any store here has.
    ///
    /// # Errors
    /// `Store`.
    pub async fn names(&self, prefix: &str) -> Result<BTreeSet<KeyName>, KeyStoreError> {
        let mut names = BTreeSet::new();
        for store in &self.0 {
            names.extend(store.names(prefix).await?.into_keys());
        }
        Ok(names)
    }

    /// Every version of a file, store by store, oldest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn read(&self, name: &KeyName) -> Result<Vec<(&str, Bytes)>, KeyStoreError> {
        let mut found = Vec::new();
        for store in &self.0 {
            found.extend(store.read(name).await?.into_iter().map(|bytes| (store.name.as_str(), bytes)));
        }
        Ok(found)
    }

    /// The first epoch of a scope after `last` that neither store has seen: a ceremony that died may have left a file in one of them.
    ///
    /// # Errors
    /// `Store`.
    pub async fn next_epoch(&self, scope: &crate::ids::Scope, last: u32) -> Result<u32, KeyStoreError> {
        self.next_number(&format!("{scope}/"), |name| name.identity_of().map(|(_, epoch)| epoch), last).await
    }

    /// The first number behind `last`, and behind those that all stores have, that none of them has. What one store alone has is passed over
    /// and not counted from: its administrator could put the last number there is, and no key would ever be made again.
    ///
    /// # Errors
    /// `Store`.
    pub async fn next_number(
        &self,
        prefix: &str,
        number: impl Fn(&KeyName) -> Option<u32>,
        last: u32,
    ) -> Result<u32, KeyStoreError> {
        let mut taken: BTreeMap<u32, usize> = BTreeMap::new();
        for store in &self.0 {
            let numbers: BTreeSet<u32> = store.names(prefix).await?.keys().filter_map(&number).collect();
            numbers.into_iter().for_each(|number| *taken.entry(number).or_default() += 1);
        }
        let in_all = taken.iter().filter(|(_, stores)| **stores == self.0.len()).map(|(number, _)| *number).max();
        let first = in_all.unwrap_or(0).max(last).saturating_add(1);
        Ok((first..u32::MAX).find(|number| !taken.contains_key(number)).unwrap_or(u32::MAX))
    }
}
