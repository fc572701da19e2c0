//! The honesty drill on real servers: Ceph keeps its locks, moto is caught at each of its lies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use lifeboat::clock::Clock;
use lifeboat::store::honesty::s3::{Locks, Target, drill};
use lifeboat::store::honesty::{Attack, Outcome, Trial, Verdict, verdict};

mod support;
use support::moto::Moto;
use support::rgw::Rgw;
use support::s3;

const LOCKS: Locks = Locks { lock: SignedDuration::from_secs(60), lapse: SignedDuration::from_secs(2) };

fn attacked(client: &aws_sdk_s3::Client, bucket: &str) -> Vec<Trial> {
    let target = Target { client: client.clone(), bucket: bucket.to_owned(), prefix: "shop".into() };
    let now: Timestamp = Clock::system().now();
    let trials = s3::wait(async move { drill(&target, "20261122T072400Z-1a2b3c4d", now, LOCKS).await }).unwrap();
    for Trial { attack, outcome, detail } in &trials {
        println!("{:<26} {outcome:?}: {detail}", attack.name());
    }
    trials
}

fn by_outcome(trials: &[Trial]) -> BTreeMap<&'static str, Outcome> {
    trials.iter().map(|trial| (trial.attack.name(), trial.outcome)).collect()
}

#[test]
fn ceph_keeps_every_lock_against_its_owner() {
    let Some(rgw) = Rgw::get("ceph_keeps_every_lock_against_its_owner") else { return };
    let trials = attacked(&rgw.client(), &rgw.bucket());
    assert_eq!(trials.len(), Attack::ALL.len());
    assert_eq!(verdict(&trials), Verdict::Honest);
    let of = by_outcome(&trials);
    // Overwritten and hidden it may be: versions are looked at. Its races have many winners, and that is no lie.
    for name in ["overwrite", "overwrite-in-parts", "hide-by-marker", "race-create-only"] {
        assert_eq!(of[name], Outcome::SeenThrough, "{name}");
    }
    // The older one forgets the lock headers of uploads in parts; a lock set afterwards is kept.
    assert_eq!(of["parts-unlocked"], if rgw.recent { Outcome::Refused } else { Outcome::SeenThrough });
}

#[test]
fn moto_is_caught_at_each_of_its_lies() {
    let Some(moto) = Moto::start("moto_is_caught_at_each_of_its_lies") else { return };
    let trials = attacked(&moto.client(), &moto.bucket());
    let lies: Vec<&str> = trials.iter().filter(|t| t.outcome == Outcome::Lied).map(|t| t.attack.name()).collect();
    assert_eq!(lies, ["shorten", "downgrade-mode", "past-date", "suspend-versioning", "wrong-checksum"]);
    assert_eq!(verdict(&trials), Verdict::Lies);
    let of = by_outcome(&trials);
    assert_eq!(of["parts-unlocked"], Outcome::SeenThrough);
    // Honest in these: a drill that calls everything a lie would prove nothing.
    for name in ["born-unlocked", "delete-version", "delete-many", "bypass-delete", "delete-held"] {
        assert_eq!(of[name], Outcome::Refused, "{name}");
    }
}
