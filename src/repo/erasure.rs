//! The erasure ledger: which scopes' keys were destroyed on purpose, and how far that has come.
//!
//! ```text
//! estate/erasures/<time>-<rand>.json        one entry: clear JSON
//! estate/erasures/<time>-<rand>.json.sig    an SSH signature over it, namespace `lifeboat-erasure`; written first
//! ```
//! Append-only: a `requested` entry names scope, epochs, keys stores and registered copies; each later entry says that one of them is gone. An
//! erasure is complete when all are. From the request on, nothing opens those epochs any more: every reader asks the ledger first
//! (`Identities::refusing`), and whoever copies a store copies the ledger.
//!
//! **Only an eraser's signature counts**: a line of the signers file that names the namespace `lifeboat-erasure` expressly. A writer's key, which the
//! backup host has, makes nobody's data unreadable here; what is not believed is reported and passed over. Taking an eraser's line away, or ending
//! its `valid-before` earlier, undoes a false request, as long as the keys are there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::RepoError;
use super::fetch;
use super::name::Stamp;
use super::sign::Signers;
use crate::failure::{self, Failure, Kind};
use crate::ids::Scope;
use crate::store::{Listed, Store, StoreError};

/// Where the ledger lies.
pub const PREFIX: &str = "estate/erasures/";
/// The namespace of its signatures.
pub const NAMESPACE: &str = "lifeboat-erasure";

const FORMAT: u32 = 1;
/// The largest entry that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// What goes wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub enum ErasureError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Repo(#[from] RepoError),
    #[error("the entry was written and is not believed: no line of the signers file names its signer for {NAMESPACE}")]
    NotBelieved { name: String },
    #[error("the entry cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

impl From<getrandom::Error> for ErasureError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error)
    }
}

impl From<ErasureError> for Failure {
    fn from(error: ErasureError) -> Self {
        let cause = failure::chain(&error);
        match error {
            ErasureError::Store(error) => error.into(),
            ErasureError::Repo(error) => error.into(),
            ErasureError::NotBelieved { name } => {
                let next =
                    "add the eraser to the signers file: NAME namespaces=\"lifeboat-erasure\" ssh-ed25519 AAAA...";
                Self::new(Kind::Usage, name, cause, next)
            }
            ErasureError::Json(_) | ErasureError::Random(_) => {
                Self::new(Kind::Failed, "erasure ledger", cause, "run the command again")
            }
        }
    }
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub format: u32,
    /// Its own full name.
    pub name: String,
    /// Which erasure: the stamp of its request.
    pub erasure: String,
    pub scope: Scope,
    pub time: Timestamp,
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// Asked for: from now on nothing opens or seals these epochs.
    Requested {
        epochs: BTreeSet<u32>,
        /// The keys stores that must lose them.
        stores: BTreeSet<String>,
        /// The registered copies that must go, with the SSH key that each one's holder confirms with.
        copies: BTreeMap<String, Option<String>>,
    },
    /// A keys store was seen to have none of them, in any version.
    StoreGone { store: String },
    /// A copy's holder said that it is gone, or it was deleted where this ran.
    CopyGone { copy: String, confirmed: Confirmed },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Confirmed {
    /// Deleted by lifeboat, on the machine of that name.
    Deleted { host: String },
    /// The holder's signed words.
    Statement { text: String, signature: String },
}

/// One erasure and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Erasure {
    pub id: String,
    pub scope: Scope,
    pub epochs: BTreeSet<u32>,
    pub requested: Timestamp,
    /// Whether each keys store has lost the keys.
    pub stores: BTreeMap<String, bool>,
    /// Whether each registered copy is gone.
    pub copies: BTreeMap<String, bool>,
    /// With what each copy's holder confirms.
    pub holders: BTreeMap<String, Option<String>>,
}

impl Erasure {
    /// Whether nobody can open these epochs any more, as far as anybody has said.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.stores.values().chain(self.copies.values()).all(|gone| *gone)
    }

    /// What is still missing, for people.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        let of = |what: &str, each: &BTreeMap<String, bool>| -> Vec<String> {
            each.iter().filter(|(_, gone)| !**gone).map(|(name, _)| format!("{what} {name}")).collect()
        };
        [of("keys store", &self.stores), of("copy", &self.copies)].concat()
    }
}

/// The ledger as one store has it.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Believed entries, in the order of their names, which is that of time.
    pub entries: Vec<Entry>,
    /// What lies there and is not believed.
    pub unbelieved: Vec<String>,
}

impl Ledger {
    /// Reads the ledger. `erasers` are the signers of the namespace ([`Signers::read_for`]).
    ///
    /// # Errors
    /// Of the store. What is not believed is in the ledger as such.
    pub async fn read(store: &dyn Store, erasers: &Signers) -> Result<Self, ErasureError> {
        let mut found: BTreeMap<String, (Vec<Listed>, Vec<Listed>)> = BTreeMap::new();
        let mut listing = store.list(PREFIX);
        while let Some(listed) = listing.try_next().await? {
            match listed.name.strip_suffix(".sig") {
                Some(name) => found.entry(name.to_owned()).or_default().1.push(listed),
                None => found.entry(listed.name.clone()).or_default().0.push(listed),
            }
        }
        // A signature without its entry: it was never written.
        let there = found.into_iter().filter(|(_, (entries, _))| !entries.is_empty());
        // Everybody reads this before anything else: junk must not make him wait for one read after the other.
        let reads = there.map(|(name, (entries, signatures))| async move {
            let read = believed(store, erasers, &name, &entries, &signatures).await?;
            Ok::<_, ErasureError>((name, read))
        });
        let reads: Vec<_> = reads.collect();
        let mut reads = futures::stream::iter(reads).buffered(fetch::REQUESTS);
        let mut ledger = Self::default();
        while let Some((name, read)) = reads.try_next().await? {
            match read {
                Some(entry) => ledger.entries.push(entry),
                None => ledger.unbelieved.push(name),
            }
        }
        Ok(ledger)
    }

    /// Every erasure, oldest first.
    #[must_use]
    pub fn erasures(&self) -> Vec<Erasure> {
        let mut found: BTreeMap<&str, Erasure> = BTreeMap::new();
        for entry in &self.entries {
            let Event::Requested { epochs, stores, copies } = &entry.event else { continue };
            let none = |names: Vec<&String>| names.into_iter().map(|name| (name.clone(), false)).collect();
            found.entry(&entry.erasure).or_insert_with(|| Erasure {
                id: entry.erasure.clone(),
                scope: entry.scope.clone(),
                epochs: epochs.clone(),
                requested: entry.time,
                stores: none(stores.iter().collect()),
                copies: none(copies.keys().collect()),
                holders: copies.clone(),
            });
        }
        for entry in &self.entries {
            let Some(erasure) = found.get_mut(entry.erasure.as_str()).filter(|e| e.scope == entry.scope) else {
                continue;
            };
            let gone = match &entry.event {
                Event::Requested { .. } => None,
                Event::StoreGone { store } => erasure.stores.get_mut(store),
                Event::CopyGone { copy, .. } => erasure.copies.get_mut(copy),
            };
            if let Some(gone) = gone {
                *gone = true;
            }
        }
        let mut erasures: Vec<Erasure> = found.into_values().collect();
        erasures.sort_by_key(|erasure| erasure.requested);
        erasures
    }

    /// Every epoch that may not be opened any more, with the time at which that was asked for.
    #[must_use]
    pub fn erased(&self) -> BTreeMap<(Scope, u32), Timestamp> {
        let mut erased = BTreeMap::new();
        for erasure in self.erasures() {
            for epoch in erasure.epochs {
                erased.entry((erasure.scope.clone(), epoch)).or_insert(erasure.requested);
            }
        }
        erased
    }
}

/// The oldest version that an eraser's signature covers and that says where it lies.
async fn believed(
    store: &dyn Store,
    erasers: &Signers,
    name: &str,
    entries: &[Listed],
    signatures: &[Listed],
) -> Result<Option<Entry>, ErasureError> {
    let mut armored = Vec::new();
    for listed in fetch::tried(signatures) {
        armored.extend(version(store, &listed).await?);
    }
    for listed in fetch::tried(entries) {
        let Some(bytes) = version(store, &listed).await? else { continue };
        let signed = armored.iter().any(|sig| erasers.verify_for(NAMESPACE, &bytes, sig, listed.created).is_ok());
        if let (true, Ok(entry)) = (signed, serde_json::from_slice::<Entry>(&bytes))
            && (entry.format, entry.name.as_str()) == (FORMAT, name)
        {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

async fn version(store: &dyn Store, listed: &Listed) -> Result<Option<Bytes>, ErasureError> {
    if listed.bytes > MAX_BYTES {
        return Ok(None);
    }
    match store.get(&listed.name, Some(&listed.version), None).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes one entry and reads it back believed. Without `erasure` it begins one, whose id is its stamp.
///
/// # Errors
/// `NotBelieved` when the signer is no eraser: checked before anything is written; of signing or of the store.
pub async fn append<E: From<ErasureError>>(
    store: &dyn Store,
    erasers: &Signers,
    (scope, erasure, event): (&Scope, Option<&str>, Event),
    (now, locked_until): (Timestamp, Timestamp),
    sign: impl AsyncFnOnce(&[u8]) -> Result<String, E>,
) -> Result<Entry, E> {
    let stamp = Stamp::new(now).map_err(ErasureError::from)?.to_string();
    let name = format!("{PREFIX}{stamp}.json");
    let erasure = erasure.map_or_else(|| stamp, str::to_owned);
    let entry = Entry { format: FORMAT, name: name.clone(), erasure, scope: scope.clone(), time: now, event };
    let mut bytes = serde_json::to_vec_pretty(&entry).map_err(ErasureError::Json)?;
    bytes.push(b'\n');
    let signature = sign(&bytes).await?;
    if erasers.verify_for(NAMESPACE, &bytes, signature.as_bytes(), now).is_err() {
        return Err(ErasureError::NotBelieved { name }.into());
    }
    let put = |name: String, bytes: Vec<u8>| async move {
        store.put(&name, bytes.into(), locked_until).await.map_err(ErasureError::from)
    };
    put(format!("{name}.sig"), signature.into_bytes()).await?;
    put(name.clone(), bytes).await?;
    let (entries, signatures) = (
        fetch::versions(store, &name).await.map_err(ErasureError::from)?,
        fetch::versions(store, &format!("{name}.sig")).await.map_err(ErasureError::from)?,
    );
    match believed(store, erasers, &name, &entries, &signatures).await? {
        Some(entry) => Ok(entry),
        None => Err(ErasureError::NotBelieved { name }.into()),
    }
}

/// Brings every believed entry that `to` lacks from `from` to it, as it lies there: whoever copies a store copies this. Gives how many.
///
/// # Errors
/// Of either store.
pub async fn carry(from: &dyn Store, to: &dyn Store, erasers: &Signers) -> Result<usize, ErasureError> {
    let has: BTreeSet<String> = Ledger::read(to, erasers).await?.entries.into_iter().map(|entry| entry.name).collect();
    let mut carried = 0;
    for entry in Ledger::read(from, erasers).await?.entries.into_iter().filter(|entry| !has.contains(&entry.name)) {
        for name in [format!("{}.sig", entry.name), entry.name.clone()] {
            for listed in fetch::versions(from, &name).await?.into_iter().take(fetch::VERSIONS) {
                let Some(bytes) = version(from, &listed).await? else { continue };
                let lock = from.lock_state(&listed.name, &listed.version).await?;
                match to.put(&name, bytes, lock.retained_until.unwrap_or(entry.time)).await {
                    // A run that died, or another version of it: the believed one is found among them.
                    Ok(_) | Err(StoreError::Exists { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        carried += 1;
    }
    Ok(carried)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock::Clock;
    use crate::store::local::LocalStore;
    use ssh_key::private::Ed25519Keypair;
    use ssh_key::{HashAlg, LineEnding, PrivateKey};

    struct Rig {
        folder: tempfile::TempDir,
        clock: Clock,
        eraser: PrivateKey,
        writer: PrivateKey,
    }

    fn key() -> PrivateKey {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        PrivateKey::new(Ed25519Keypair::from_seed(&seed).into(), "key").unwrap()
    }

    fn acme() -> Scope {
        Scope::Tenant("acme".into())
    }

    fn requested() -> Event {
        let copies = BTreeMap::from([("safe".to_owned(), None)]);
        Event::Requested { epochs: [1, 2].into(), stores: ["one".to_owned(), "two".to_owned()].into(), copies }
    }

    impl Rig {
        fn new() -> Self {
            let rig = Self {
                folder: tempfile::tempdir().unwrap(),
                clock: Clock::set_to("2026-11-22T07:24:00Z".parse().unwrap()),
                eraser: key(),
                writer: key(),
            };
            for name in ["data", "copy"] {
                std::fs::create_dir(rig.folder.path().join(name)).unwrap();
            }
            let line = |name, options, key: &PrivateKey| {
                format!("{name} {options} {}\n", key.public_key().to_openssh().unwrap())
            };
            let text =
                line("eraser", "namespaces=\"lifeboat-erasure\"", &rig.eraser) + &line("writer", "", &rig.writer);
            std::fs::write(rig.folder.path().join("signers"), text).unwrap();
            rig
        }
        fn store(&self, name: &str) -> LocalStore {
            LocalStore::open(&self.folder.path().join(name), self.clock.clone()).unwrap()
        }
        fn erasers(&self) -> Signers {
            Signers::read_for(&self.folder.path().join("signers"), NAMESPACE).unwrap()
        }
        async fn append(&self, key: &PrivateKey, id: Option<&str>, event: Event) -> Result<Entry, ErasureError> {
            let sign = async |bytes: &[u8]| {
                Ok(key.sign(NAMESPACE, HashAlg::Sha512, bytes).unwrap().to_pem(LineEnding::LF).unwrap())
            };
            let times = (self.clock.now(), "2033-11-22T07:24:00Z".parse().unwrap());
            append(&self.store("data"), &self.erasers(), (&acme(), id, event), times, sign).await
        }
        async fn ledger(&self, store: &str) -> Ledger {
            Ledger::read(&self.store(store), &self.erasers()).await.unwrap()
        }
    }

    #[tokio::test]
    async fn an_erasure_is_in_force_from_its_request_and_complete_when_everything_is_gone() {
        let rig = Rig::new();
        let entry = rig.append(&rig.eraser, None, requested()).await.unwrap();
        let erased = rig.ledger("data").await.erased();
        assert_eq!(erased.keys().collect::<Vec<_>>(), [&(acme(), 1), &(acme(), 2)]);
        let id = Some(entry.erasure.as_str());
        let confirmed = Confirmed::Deleted { host: "here".into() };
        let events = [
            Event::StoreGone { store: "one".into() },
            Event::StoreGone { store: "one".into() },
            Event::StoreGone { store: "two".into() },
            Event::CopyGone { copy: "safe".into(), confirmed },
        ];
        for event in events {
            assert!(!rig.ledger("data").await.erasures()[0].complete());
            rig.append(&rig.eraser, id, event).await.unwrap();
        }
        let erasures = rig.ledger("data").await.erasures();
        assert!(erasures[0].complete() && erasures[0].pending().is_empty());
        assert_eq!(rig.ledger("data").await.erased().len(), 2, "what is complete stays erased");
    }

    #[tokio::test]
    async fn a_writers_key_erases_nothing_also_where_its_line_names_no_namespace() {
        let rig = Rig::new();
        let refused = rig.append(&rig.writer, None, requested()).await.unwrap_err();
        assert!(matches!(refused, ErasureError::NotBelieved { .. }));
        assert!(rig.ledger("data").await.unbelieved.is_empty(), "nothing was written");
    }

    #[tokio::test]
    async fn an_entry_counts_only_where_it_says_that_it_lies_and_as_it_was_signed() {
        let rig = Rig::new();
        let entry = rig.append(&rig.eraser, None, requested()).await.unwrap();
        let path = |name: &str| rig.folder.path().join("data").join(name);
        let (text, sig) =
            (std::fs::read(path(&entry.name)).unwrap(), std::fs::read(path(&format!("{}.sig", entry.name))).unwrap());
        let elsewhere = format!("{PREFIX}20261122T072400Z-00000000.json");
        std::fs::write(path(&elsewhere), &text).unwrap();
        std::fs::write(path(&format!("{elsewhere}.sig")), &sig).unwrap();
        let ledger = rig.ledger("data").await;
        assert_eq!((ledger.entries.len(), ledger.unbelieved), (1, vec![elsewhere]));
        for at in (0..text.len()).step_by(7) {
            let mut altered = text.clone();
            altered[at] ^= 1;
            std::fs::write(path(&entry.name), &altered).unwrap();
            assert!(rig.ledger("data").await.entries.is_empty(), "flipped at {at}");
        }
    }

    #[tokio::test]
    async fn a_copy_of_the_store_has_the_ledger_with_its_locks() {
        let rig = Rig::new();
        let entry = rig.append(&rig.eraser, None, requested()).await.unwrap();
        std::fs::write(rig.folder.path().join("data").join(PREFIX).join("junk.json"), b"junk").unwrap();
        let (from, to) = (rig.store("data"), rig.store("copy"));
        assert_eq!(carry(&from, &to, &rig.erasers()).await.unwrap(), 1);
        assert_eq!(carry(&from, &to, &rig.erasers()).await.unwrap(), 0);
        let ledger = rig.ledger("copy").await;
        assert_eq!((ledger.erased().len(), ledger.unbelieved.len()), (2, 0));
        let listed = fetch::versions(&to, &entry.name).await.unwrap();
        let refused = to.remove(&entry.name, &listed[0].version).await.unwrap_err();
        assert!(matches!(refused, StoreError::Locked { .. }));
    }
}
