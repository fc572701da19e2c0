//! One custody key with the groups that open it, as both keys stores have it.
//!
//! Written: the files of the groups, the earlier key sealed to this one, then the manifest, which is the commit. A generation counts for sealing when
//! both stores have the same manifest: one administrator alone can neither begin one nor take its place. The clear manifest names
//! custodians, groups, and the SHA-256 of each file; it holds no secret.

use std::collections::BTreeMap;

use age::x25519::{Identity, Recipient};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{CustodyError, Rule, nested};
use crate::authority::key_name::KeyName;
use crate::authority::key_stores::{KeyStore, KeyStores};
use crate::ids::Digest;
use crate::repo::identities::identity_text;
use crate::repo::seal::seal_plain;

const FORMAT: u32 = 1;

/// See the module's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub number: u32,
    /// What scope keys are sealed to.
    pub recipient: Recipient,
    pub rule: Rule,
    /// The files of its groups.
    pub groups: BTreeMap<Vec<String>, Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    custody: u32,
    recipient: String,
    made: Timestamp,
    custodians: BTreeMap<String, String>,
    groups: Vec<Group>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    custodians: Vec<String>,
    sha256: Digest,
}

impl Generation {
    /// Reads the manifest found at generation `number`; `None` when it is not one.
    #[must_use]
    pub fn parse(bytes: &[u8], number: u32) -> Option<Self> {
        let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
        if (manifest.format, manifest.custody) != (FORMAT, number) {
            return None;
        }
        let parsed = manifest.custodians.into_iter().map(|(name, text)| Some((name, text.parse().ok()?)));
        let custodians: BTreeMap<String, Recipient> = parsed.collect::<Option<_>>()?;
        let groups: BTreeMap<Vec<String>, Digest> =
            manifest.groups.into_iter().map(|group| (group.custodians, group.sha256)).collect();
        let known = |group: &Vec<String>| !group.is_empty() && group.iter().all(|name| custodians.contains_key(name));
        groups.keys().all(known).then_some(())?;
        let rule = Rule { custodians, allowed: groups.keys().cloned().collect() };
        Some(Self { number, recipient: manifest.recipient.parse().ok()?, rule, groups })
    }

    fn manifest(&self, made: Timestamp) -> Bytes {
        let groups = self.groups.iter().map(|(group, sha256)| Group { custodians: group.clone(), sha256: *sha256 });
        let manifest = Manifest {
            format: FORMAT,
            custody: self.number,
            recipient: self.recipient.to_string(),
            made,
            custodians: self.rule.custodians.iter().map(|(name, key)| (name.clone(), key.to_string())).collect(),
            groups: groups.collect(),
        };
        // Text keys and plain values: this cannot fail to be written as JSON.
        let mut bytes = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        bytes.push(b'\n');
        bytes.into()
    }
}

/// What the file of a custody key says that it opens.
fn header(number: u32) -> String {
    format!("every key that is sealed to custody {number}")
}

/// Makes a new custody key for `rule` and writes it into both stores; `earlier` is the one it follows.
///
/// # Guarantees
/// Nothing is sealed to the new key before both stores have all of it: until its manifest is in both, [`current`] gives the one before.
///
/// # Errors
/// `Disagree` where `earlier` is none and the stores hold sealed keys: one of them was lost, and what opens those keys would be left to lapse. Of
/// the stores, or of sealing.
pub async fn make(
    stores: &KeyStores,
    rule: &Rule,
    earlier: Option<&(u32, Identity)>,
    lock: SignedDuration,
    now: Timestamp,
) -> Result<Generation, CustodyError> {
    if earlier.is_none()
        && let Some(lost) = CustodyError::lost(&stores.names("").await?)
    {
        return Err(lost);
    }
    let last = earlier.map_or(0, |(number, _)| *number);
    let custody = stores.next_number("custody/", number_of, last).await?;
    let key = Identity::generate();
    let text = identity_text(&header(custody), &key);
    let (mut files, mut groups) = (Vec::new(), BTreeMap::new());
    for group in &rule.allowed {
        let order = group
            .iter()
            .map(|name| rule.custodians.get(name).ok_or_else(|| CustodyError::Stranger { name: name.clone() }));
        let order: Vec<&Recipient> = order.collect::<Result<_, _>>()?;
        let sealed = nested::seal(text.as_bytes(), &order).map_err(CustodyError::Seal)?;
        groups.insert(group.clone(), Digest::of(&sealed));
        files.push((KeyName::Group { custody, group: group.clone() }, Bytes::from(sealed)));
    }
    if let Some((number, identity)) = earlier {
        let text = identity_text(&header(*number), identity);
        let sealed = seal_plain(&key.to_public(), text.as_bytes()).map_err(CustodyError::Seal)?;
        files.push((KeyName::Earlier { custody, earlier: *number }, Bytes::from(sealed)));
    }
    let generation = Generation { number: custody, recipient: key.to_public(), rule: rule.clone(), groups };
    files.push((KeyName::Manifest { custody }, generation.manifest(now)));
    stores.put(&files, lock).await?;
    Ok(generation)
}

fn number_of(name: &KeyName) -> Option<u32> {
    match name {
        KeyName::Group { custody, .. } | KeyName::Earlier { custody, .. } | KeyName::Manifest { custody } => {
            Some(*custody)
        }
        _ => None,
    }
}

/// The generation that new keys are sealed to: the newest whose manifest both stores have. `None` when there is none yet.
///
/// # Errors
/// `Disagree` when they have different ones of one number, or not the `pinned` one; of the stores.
pub async fn current(stores: &KeyStores, pinned: Option<&Recipient>) -> Result<Option<Generation>, CustodyError> {
    let [one, other] = stores.both()?;
    let (first, second) = (manifests(one).await?, manifests(other).await?);
    let Some((number, mine)) = first.iter().rev().find(|(number, _)| second.contains_key(number)) else {
        return Ok(None);
    };
    if second.get(number) != Some(mine) {
        let what = format!("custody/{number}/manifest.json differs");
        return Err(CustodyError::Disagree { what });
    }
    let unread = || CustodyError::Disagree { what: format!("custody/{number}/manifest.json is not a manifest") };
    let generation = Generation::parse(mine, *number).ok_or_else(unread)?;
    match pinned {
        Some(pinned) if *pinned != generation.recipient => Err(CustodyError::Disagree {
            what: format!("they name {}, the configuration pins {pinned}", generation.recipient),
        }),
        _ => Ok(Some(generation)),
    }
}

/// The oldest version of each manifest of one store: what lies on top of it came later.
async fn manifests(store: &KeyStore) -> Result<BTreeMap<u32, Bytes>, CustodyError> {
    let mut found = BTreeMap::new();
    for name in store.names("custody/").await?.into_keys() {
        if let KeyName::Manifest { custody } = name
            && let Some(bytes) = store.read(&name).await?.into_iter().next()
        {
            found.insert(custody, bytes);
        }
    }
    Ok(found)
}

/// Every generation that any store here speaks of, newest first; what only one of them says is among them. For opening, where a
/// wrong one does no more harm than not to open.
///
/// # Errors
/// Of the stores.
pub async fn all(stores: &KeyStores) -> Result<Vec<Generation>, CustodyError> {
    let mut found = Vec::new();
    for name in stores.names("custody/").await?.into_iter().rev() {
        let KeyName::Manifest { custody } = name else { continue };
        for (_, bytes) in stores.read(&name).await? {
            match Generation::parse(&bytes, custody) {
                Some(generation) if !found.contains(&generation) => found.push(generation),
                _ => {}
            }
        }
    }
    found.sort_by_key(|generation| std::cmp::Reverse(generation.number));
    Ok(found)
}
