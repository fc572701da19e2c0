//! Scope keys out of the keys stores: by enough custodians, by whoever opened the custody key with plain age, or by the drill host.
//!
//! One store is enough: this is for the day when the other one is gone. What a file holds is believed when it opens, when it says
//! for which scope and epoch it is (so that one tenant's key cannot be passed off as another's), and when most stores say the same. Which key is the right
//! one shows at the data; where two stores differ, the caller can name the recipient.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use age::x25519::{Identity, Recipient};
use zeroize::Zeroizing;

use super::custody::generation::{self, Generation};
use super::custody::{CustodyError, nested};
use super::key_name::KeyName;
use super::key_stores::KeyStores;
use crate::ids::{Digest, Scope};
use crate::repo::identities::{parse_identity, scope_identity_text};

/// Who opens.
pub enum Holders {
    /// Custodians' own identities; enough of them for an allowed group.
    Custodians(Vec<Identity>),
    /// The custody key itself, opened elsewhere with plain age.
    CustodyKey(Box<Identity>),
}

/// The custody keys that were opened: the newest, and those before it.
pub struct Custody {
    keys: Vec<(Option<u32>, Identity)>,
    /// Whose identities were used; empty when the custody key itself was brought.
    pub group: Vec<String>,
}

impl std::fmt::Debug for Custody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Custody").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Custody {
    /// Opens the custody key, and with it every earlier one.
    ///
    /// # Errors
    /// `None`, `NotEnough`, `Damaged`; of the stores.
    pub async fn open(stores: &KeyStores, holders: Holders) -> Result<Self, CustodyError> {
        let generations = generation::all(stores).await?;
        let (first, group) = match holders {
            Holders::CustodyKey(key) => {
                let public = key.to_public();
                let known = generations.iter().find(|generation| generation.recipient == public);
                ((known.map(|generation| generation.number), *key), Vec::new())
            }
            Holders::Custodians(identities) => by_custodians(stores, &generations, &identities).await?,
        };
        let mut custody = Self { keys: vec![first], group };
        custody.walk_back(stores).await?;
        Ok(custody)
    }

    /// The key of generation `number`, when it is among them.
    #[must_use]
    pub fn key(&self, number: u32) -> Option<(u32, Identity)> {
        self.keys.iter().find(|(known, _)| *known == Some(number)).map(|(_, key)| (number, key.clone()))
    }

    /// Follows `custody/<n>/earlier/` down to the first.
    async fn walk_back(&mut self, stores: &KeyStores) -> Result<(), CustodyError> {
        let names = stores.names("custody/").await?;
        for name in names.iter().rev() {
            let KeyName::Earlier { custody, earlier } = name else { continue };
            let Some((_, key)) = self.key(*custody).filter(|_| self.key(*earlier).is_none()) else { continue };
            for (_, bytes) in stores.read(name).await? {
                if let Ok(text) = nested::open(&bytes, &[&key])
                    && let Some(identity) = identity_in(&text)
                {
                    self.keys.push((Some(*earlier), identity));
                    break;
                }
            }
        }
        Ok(())
    }

    /// The identity of a scope's epoch. `wanted` decides where the stores hold different ones.
    ///
    /// # Errors
    /// `Damaged` when no version opens, `Disagree` when the stores hold different keys; of the stores.
    pub async fn identity(
        &self,
        stores: &KeyStores,
        scope: &Scope,
        epoch: u32,
        wanted: Option<&Recipient>,
    ) -> Result<Identity, CustodyError> {
        let name = KeyName::Scope { scope: scope.clone(), epoch };
        let keys: Vec<&Identity> = self.keys.iter().map(|(_, key)| key).collect();
        chosen(stores, &name, &keys, wanted).await
    }
}

async fn by_custodians(
    stores: &KeyStores,
    generations: &[Generation],
    identities: &[Identity],
) -> Result<((Option<u32>, Identity), Vec<String>), CustodyError> {
    let mut trouble = CustodyError::None;
    for generation in generations {
        let mut here: BTreeMap<String, &Identity> = BTreeMap::new();
        for identity in identities {
            let mine = generation.rule.custodians.iter().filter(|(_, key)| **key == identity.to_public());
            here.extend(mine.map(|(name, _)| (name.clone(), identity)));
        }
        let outcome = match generation.rule.group_among(&here.keys().cloned().collect()) {
            Ok(group) => open_group(stores, generation, group, &here).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok((key, group)) => return Ok(((Some(generation.number), key), group)),
            Err(error @ CustodyError::Stores(_)) => return Err(error),
            // The newest one's trouble is what a person must hear: older ones are tried because a store may speak of one that is not.
            Err(error) if matches!(trouble, CustodyError::None) => trouble = error,
            Err(_) => {}
        }
    }
    Err(trouble)
}

async fn open_group(
    stores: &KeyStores,
    generation: &Generation,
    group: &[String],
    here: &BTreeMap<String, &Identity>,
) -> Result<(Identity, Vec<String>), CustodyError> {
    let name = KeyName::Group { custody: generation.number, group: group.to_vec() };
    let order: Vec<&Identity> = group.iter().filter_map(|name| here.get(name).copied()).collect();
    for (_, bytes) in stores.read(&name).await? {
        if generation.groups.get(group) != Some(&Digest::of(&bytes)) {
            continue;
        }
        if let Ok(text) = nested::open(&bytes, &order)
            && let Some(key) = identity_in(&text)
            && key.to_public() == generation.recipient
        {
            return Ok((key, group.to_vec()));
        }
    }
    Err(CustodyError::Damaged { name: name.to_string() })
}

fn identity_in(text: &[u8]) -> Option<Identity> {
    parse_identity(std::str::from_utf8(text).ok()?, Path::new("key file")).ok()
}

/// What a key file holds, when it says that it is for this scope and epoch.
fn scope_identity_in(text: &Zeroizing<Vec<u8>>, scope: &Scope, epoch: u32) -> Option<Identity> {
    let identity = identity_in(text)?;
    (*scope_identity_text(scope, epoch, &identity).as_bytes() == **text).then_some(identity)
}

/// The identity that most stores hold under `name`, opened with one of `keys`.
async fn chosen(
    stores: &KeyStores,
    name: &KeyName,
    keys: &[&Identity],
    wanted: Option<&Recipient>,
) -> Result<Identity, CustodyError> {
    let damaged = || CustodyError::Damaged { name: name.to_string() };
    let (scope, epoch) = name.identity_of().ok_or_else(damaged)?;
    let mut found: Vec<(Identity, BTreeSet<String>)> = Vec::new();
    for (store, bytes) in stores.read(name).await? {
        let opened = keys.iter().find_map(|key| scope_identity_in(&nested::open(&bytes, &[key]).ok()?, scope, epoch));
        let Some(identity) = opened else { continue };
        match found.iter_mut().find(|(known, _)| known.to_public() == identity.to_public()) {
            Some((_, stores)) => drop(stores.insert(store.to_owned())),
            None => found.push((identity, BTreeSet::from([store.to_owned()]))),
        }
    }
    if let Some(wanted) = wanted {
        found.retain(|(identity, _)| identity.to_public() == *wanted);
    }
    let most = found.iter().map(|(_, stores)| stores.len()).max().ok_or_else(damaged)?;
    found.retain(|(_, stores)| stores.len() == most);
    if found.len() > 1 {
        let public = found.iter().map(|(identity, _)| identity.to_public().to_string()).collect::<Vec<_>>();
        let what = format!("{name} holds {}; name the right one with --recipient", public.join(" or "));
        return Err(CustodyError::Disagree { what });
    }
    found.pop().map(|(identity, _)| identity).ok_or_else(damaged)
}

/// Every epoch of `scopes` that was sealed to the drill host, opened with its own identity. What does not open is left out: the
/// drill says which key it misses.
///
/// # Errors
/// Of the stores.
pub async fn by_drill_host(
    stores: &KeyStores,
    host: &Identity,
    scopes: &BTreeSet<Scope>,
) -> Result<BTreeMap<(Scope, u32), Identity>, CustodyError> {
    let mut opened = BTreeMap::new();
    for scope in scopes {
        for name in stores.names(&format!("{scope}/")).await? {
            let KeyName::Drill { epoch, .. } = name else { continue };
            match chosen(stores, &name, &[host], None).await {
                Ok(identity) => drop(opened.insert((scope.clone(), epoch), identity)),
                Err(CustodyError::Stores(error)) => return Err(error.into()),
                Err(error) => tracing::warn!(%name, %error, "the drill host cannot open its copy"),
            }
        }
    }
    Ok(opened)
}

/// The epochs of a scope that any store here has.
///
/// # Errors
/// Of the stores.
pub async fn epochs(stores: &KeyStores, scope: &Scope) -> Result<BTreeSet<u32>, CustodyError> {
    let names = stores.names(&format!("{scope}/")).await?;
    let of_custody = |name: &KeyName| match name {
        KeyName::Scope { epoch, .. } => Some(*epoch),
        _ => None,
    };
    Ok(names.iter().filter_map(of_custody).collect())
}
