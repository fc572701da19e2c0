//! Registered copies: identities of a scope that somebody keeps outside the keys stores (a safe, another machine), so that an erasure knows
//! whom to ask.
//!
//! `<scope>/copies/<name>.json` in both keys stores: who holds it, and the SSH key that he will confirm its end with. A copy that nobody registered is known
//! to nobody: that is what THREATS says about it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::key_name::KeyName;
use super::key_stores::{KeyStoreError, KeyStores};
use super::ssh;
use crate::ids::Scope;
use crate::repo::erasure::Erasure;

/// The namespace of a holder's statement.
pub const NAMESPACE: &str = "lifeboat-copy";

const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    pub format: u32,
    pub scope: Scope,
    pub name: String,
    /// For people: who has it, and where.
    pub holder: String,
    /// His OpenSSH public key; without one the copy can only be deleted by lifeboat itself, where it lies.
    pub key: Option<String>,
    pub made: Timestamp,
}

impl Copy {
    #[must_use]
    pub fn new(scope: Scope, name: String, holder: String, key: Option<String>, made: Timestamp) -> Self {
        Self { format: FORMAT, scope, name, holder, key, made }
    }
}

/// Registers a copy in both stores.
///
/// # Errors
/// `Exists` when the scope has a copy of that name; of the stores.
pub async fn register(stores: &KeyStores, copy: &Copy, lock: SignedDuration) -> Result<(), KeyStoreError> {
    let name = KeyName::Copy { scope: copy.scope.clone(), name: copy.name.clone() };
    // Text keys and plain values: this cannot fail to be written as JSON.
    let bytes = serde_json::to_vec(copy).unwrap_or_default();
    stores.put(&[(name, bytes.into())], lock).await
}

/// The copies of a scope that any store here knows of.
///
/// # Errors
/// Of the stores.
pub async fn of(stores: &KeyStores, scope: &Scope) -> Result<BTreeMap<String, Copy>, KeyStoreError> {
    let mut found = BTreeMap::new();
    for file in stores.names(&format!("{scope}/copies/")).await? {
        let KeyName::Copy { name, .. } = &file else { continue };
        for (_, bytes) in stores.read(&file).await? {
            match serde_json::from_slice::<Copy>(&bytes) {
                Ok(copy) if copy.format == FORMAT && copy.scope == *scope && copy.name == *name => {
                    found.entry(name.clone()).or_insert(copy);
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// The words that the holder of a copy signs when he has destroyed it.
#[must_use]
pub fn statement(erasure: &Erasure, copy: &str) -> String {
    let epochs: Vec<String> = erasure.epochs.iter().map(u32::to_string).collect();
    format!(
        "I have destroyed every copy of the key of {} (epochs {}) that I held as '{copy}', for the erasure {}.\n",
        erasure.scope,
        epochs.join(", "),
        erasure.id
    )
}

/// Whether `signature` is the registered holder's, over just these words.
#[must_use]
pub fn confirms(erasure: &Erasure, copy: &str, signature: &str) -> bool {
    let key = erasure.holders.get(copy).and_then(Option::as_ref);
    key.is_some_and(|key| ssh::is_signed(key, NAMESPACE, statement(erasure, copy).as_bytes(), signature))
}
