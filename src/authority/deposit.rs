//! Scope keys into both keys stores, before anything is sealed to them.
//!
//! The drill host's copy is a file of its own, not a second recipient of the custodians': so it can be left to lapse, and be removed, while theirs
//! stays; and each is locked by itself.

use std::collections::{BTreeMap, BTreeSet};

use age::x25519::{Identity, Recipient};
use bytes::Bytes;
use jiff::SignedDuration;

use super::custody::CustodyError;
use super::key_name::KeyName;
use super::key_stores::KeyStores;
use crate::ids::Scope;
use crate::repo::identities::scope_identity_text;
use crate::repo::seal::seal_plain;

/// Whom key files are sealed to.
#[derive(Debug, Clone)]
pub struct Seals {
    pub custody: Recipient,
    /// The drill host, and the scopes that opted in to it.
    pub drill: Option<(Recipient, BTreeSet<Scope>)>,
}

/// Seals each identity and writes it into both stores, read back.
///
/// # Guarantees
/// When this returns, every key lies in both stores. Otherwise none of them may be sealed to: what was written under these epochs is used by nobody.
///
/// # Errors
/// Of the stores (`Exists` when an epoch was used before), or of sealing.
pub async fn deposit(
    stores: &KeyStores,
    seals: &Seals,
    identities: &BTreeMap<(Scope, u32), Identity>,
    lock: SignedDuration,
) -> Result<(), CustodyError> {
    let mut files = Vec::new();
    for ((scope, epoch), identity) in identities {
        let (scope, epoch) = (scope.clone(), *epoch);
        let text = scope_identity_text(&scope, epoch, identity);
        let seal = |recipient| seal_plain(recipient, text.as_bytes()).map(Bytes::from).map_err(CustodyError::Seal);
        if let Some((host, scopes)) = &seals.drill
            && scopes.contains(&scope)
        {
            files.push((KeyName::Drill { scope: scope.clone(), epoch }, seal(host)?));
        }
        files.push((KeyName::Scope { scope, epoch }, seal(&seals.custody)?));
    }
    Ok(stores.put(&files, lock).await?)
}
