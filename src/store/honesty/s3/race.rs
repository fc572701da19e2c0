//! Eight create-only puts at once: how many does the store let win?
//!
//! Nothing in lifeboat depends on the answer: names are random or follow from the content, and readers take the version whose
//! hash is right. It is told so that nobody builds a lock on it.

use aws_sdk_s3::types::ObjectLockMode;
use futures::future::join_all;

use super::canary::Ground;
use super::{Answer, Came, Trouble, answer};
use crate::store::honesty::{Attack, Outcome};

const WRITERS: usize = 8;

pub(super) async fn race(ground: &Ground<'_>) -> Came {
    let key = ground.key(Attack::RaceCreateOnly.name());
    let until = ground.after(ground.locks.lapse);
    let create = || ground.locked(&key, ObjectLockMode::Compliance, until).if_none_match("*").send();
    let mut won = 0;
    for said in join_all((0..WRITERS).map(|_| create())).await {
        match answer(said)? {
            Answer::Yes(_) => won += 1,
            Answer::Denied => return Err(Trouble::NoRight("put create-only")),
            Answer::No(_) => {}
        }
    }
    let later = matches!(answer(create().await)?, Answer::Yes(_));
    Ok(match (won, later) {
        (1, false) => (Outcome::Refused, "one of 8 won, and nobody after it".into()),
        (_, true) => (Outcome::SeenThrough, "create-only is not kept at all; nothing depends on it".into()),
        (won, false) => {
            (Outcome::SeenThrough, format!("{won} of 8 won: create-only is no mutex here; nothing depends on it"))
        }
    })
}
