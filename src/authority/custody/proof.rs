//! Whether a custodian still has his key: a challenge sealed to him alone, and his answer.
//!
//! The challenge is an age file with one line in it; `age -d -i alice.key challenge.age` prints the answer. What both keys stores keep of it is the
//! line's SHA-256, which lets anybody check an answer and nobody make one. A challenge is answered once. That the right person held the key, and that
//! nobody else does, this cannot prove.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{CustodyError, Rule};
use crate::authority::key_name::KeyName;
use crate::authority::key_stores::{Inventory, KeyStores};
use crate::ids::Digest;
use crate::repo::name::Stamp;
use crate::repo::seal::seal_plain;

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Challenge {
    format: u32,
    custodian: String,
    /// Whom it was sealed to: a proof for a key that he had before is none for the one he has now.
    recipient: String,
    /// SHA-256 of the answer.
    answer: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    format: u32,
    custodian: String,
    recipient: String,
    proved: Timestamp,
}

fn json(record: &impl Serialize) -> Bytes {
    // Text keys and plain values: this cannot fail to be written as JSON.
    serde_json::to_vec(record).unwrap_or_default().into()
}

/// Makes a challenge for a custodian, keeps what checks the answer in both stores, and gives the sealed challenge.
///
/// # Errors
/// `Stranger`, of the stores, or of sealing.
pub async fn challenge(
    stores: &KeyStores,
    rule: &Rule,
    custodian: &str,
    lock: SignedDuration,
    now: Timestamp,
) -> Result<Vec<u8>, CustodyError> {
    let name = custodian.to_owned();
    let recipient = rule.custodians.get(custodian).ok_or(CustodyError::Stranger { name })?;
    let mut nonce = Zeroizing::new([0; 32]);
    getrandom::fill(nonce.as_mut())?;
    let digits = Zeroizing::new(hex::encode(&nonce[..]));
    let answer = Zeroizing::new(format!("lifeboat-proof {custodian} {}\n", digits.as_str()));
    let record = Challenge {
        format: FORMAT,
        custodian: custodian.to_owned(),
        recipient: recipient.to_string(),
        answer: Digest::of(answer.trim().as_bytes()),
    };
    let file = KeyName::Challenge { custodian: custodian.to_owned(), stamp: Stamp::new(now)? };
    stores.put(&[(file, json(&record))], lock).await?;
    seal_plain(recipient, answer.as_bytes()).map_err(CustodyError::Seal)
}

/// Checks an answer and keeps in both stores that it was right.
///
/// # Errors
/// `WrongAnswer` when it answers no open challenge that both stores have; of the stores.
pub async fn answer(
    stores: &KeyStores,
    rule: &Rule,
    custodian: &str,
    answer: &str,
    lock: SignedDuration,
    now: Timestamp,
) -> Result<(), CustodyError> {
    let stranger = || CustodyError::Stranger { name: custodian.to_owned() };
    let recipient = rule.custodians.get(custodian).ok_or_else(stranger)?.to_string();
    let wanted = Challenge {
        format: FORMAT,
        custodian: custodian.to_owned(),
        recipient,
        answer: Digest::of(answer.trim().as_bytes()),
    };
    let names = stores.names(&format!("proofs/{custodian}/")).await?;
    for name in &names {
        let KeyName::Challenge { stamp, .. } = name else { continue };
        let proof = KeyName::Proof { custodian: custodian.to_owned(), stamp: stamp.clone() };
        if names.contains(&proof) || !both_say(stores, name, &wanted).await? {
            continue;
        }
        let Challenge { format, custodian, recipient, .. } = wanted;
        let record = Proof { format, custodian, recipient, proved: now };
        return Ok(stores.put(&[(proof, json(&record))], lock).await?);
    }
    Err(CustodyError::WrongAnswer { name: custodian.to_owned() })
}

async fn both_say(stores: &KeyStores, name: &KeyName, wanted: &Challenge) -> Result<bool, CustodyError> {
    for store in stores.both()? {
        let same = |bytes: &Bytes| serde_json::from_slice::<Challenge>(bytes).is_ok_and(|found| found == *wanted);
        if !store.read(name).await?.first().is_some_and(same) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When each custodian of `rule` last proved the key that he has now, as both stores have it.
///
/// # Errors
/// Of the stores.
pub async fn last(
    stores: &KeyStores,
    inventory: &Inventory,
    rule: &Rule,
) -> Result<BTreeMap<String, Timestamp>, CustodyError> {
    let mut last = BTreeMap::new();
    for (name, held) in inventory.iter().rev() {
        let KeyName::Proof { custodian, .. } = name else { continue };
        let Some(recipient) = rule.custodians.get(custodian).filter(|_| !last.contains_key(custodian)) else {
            continue;
        };
        // Each store once, however many versions it has.
        let mut proved = BTreeSet::new();
        for (store, bytes) in stores.read(name).await? {
            if let Ok(proof) = serde_json::from_slice::<Proof>(&bytes)
                && (proof.format, &proof.custodian, proof.recipient.as_str())
                    == (FORMAT, custodian, recipient.to_string().as_str())
            {
                proved.insert(store);
            }
        }
        // Both must have it, and when it arrived is for the stores to say: the earliest of what they say.
        let arrived = held.values().filter_map(|held| held.versions.first()).map(|listed| listed.created).min();
        if held.len() == stores.0.len()
            && proved.len() == held.len()
            && let Some(time) = arrived
        {
            last.insert(custodian.clone(), time);
        }
    }
    Ok(last)
}
