//! The drill of a store through its own interface: what lifeboat can attack of a folder.
//!
//! It speaks for the store's code, not for the folder: whoever may write there (root, or lifeboat's own account) changes
//! files past it. A drill cannot disprove that, and [`crate::store::Promises`] says it.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::{Attack, Outcome, Trial};
use crate::store::{Store, StoreError, Version};

/// Attacks `store` at canaries named by `stamp`, locked for `lock`.
///
/// # Errors
/// When no canary can be put.
pub async fn drill(store: &dyn Store, stamp: &str, lock: SignedDuration) -> Result<Vec<Trial>, StoreError> {
    let now = store.now().await?;
    let until = now.checked_add(lock).unwrap_or(Timestamp::MAX);
    let name = |attack: Attack| format!("canary/{stamp}/{}", attack.name());
    let plant = async |attack: Attack| {
        let name = name(attack);
        let version = store.put(&name, Bytes::from(name.clone()), until).await?;
        Ok::<_, StoreError>((name, version))
    };
    let mut trials = Vec::new();
    let mut tell = |attack, (outcome, detail): (Outcome, String)| trials.push(Trial { attack, outcome, detail });

    let (canary, version) = plant(Attack::BornUnlocked).await?;
    let lock = store.lock_state(&canary, &version).await?;
    let locked = lock.retained_until.is_some_and(|end| end >= until);
    tell(Attack::BornUnlocked, judged(locked, "its lock can be read back"));

    let (canary, version) = plant(Attack::DeleteVersion).await?;
    let refused = matches!(store.remove(&canary, &version).await, Err(StoreError::Locked { .. }));
    tell(Attack::DeleteVersion, judged(refused && whole(store, &canary, &version).await, "a locked object stays"));

    let (canary, version) = plant(Attack::Overwrite).await?;
    let _ = store.put(&canary, Bytes::from_static(b"another"), until).await;
    tell(Attack::Overwrite, judged(whole(store, &canary, &version).await, "what was there is there, unchanged"));

    let (canary, version) = plant(Attack::Shorten).await?;
    let _ = store.extend(&canary, &version, now).await;
    let kept = store.lock_state(&canary, &version).await?.retained_until.is_some_and(|end| end >= until);
    tell(Attack::Shorten, judged(kept, "the lock ends no earlier"));

    tell(Attack::RaceCreateOnly, race(store, &name(Attack::RaceCreateOnly), until).await);
    Ok(trials)
}

async fn whole(store: &dyn Store, name: &str, version: &Version) -> bool {
    store.get(name, Some(version), None).await.is_ok_and(|bytes| bytes == name.as_bytes())
}

async fn race(store: &dyn Store, name: &str, until: Timestamp) -> (Outcome, String) {
    let writers = (0..8_u8).map(|n| store.put(name, Bytes::from(vec![n]), until));
    let won = futures::future::join_all(writers).await.into_iter().filter(Result::is_ok).count();
    // A folder says that it keeps create-only; that several win, or nobody, is not what was promised.
    judged(won == 1, &format!("one of 8 wins ({won} did)"))
}

fn judged(held: bool, what: &str) -> (Outcome, String) {
    if held { (Outcome::Refused, what.to_owned()) } else { (Outcome::Lied, format!("not so: {what}")) }
}
