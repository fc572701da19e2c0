use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::ids::Lsn;
use crate::repo::copy::tests::Ground;
use crate::repo::testing::{acme, cluster, globex};
use crate::store::either::Place;
use crate::watch::Quiet;

fn about() -> About {
    About { scopes: vec![acme(), globex()], clusters: vec![cluster()] }
}

impl Ground {
    async fn look(&self) -> Verdict {
        let place = Place { name: "drawer".into(), store: self.copy.clone() };
        look(&*self.source, &[place], &self.signers(), &about(), &Quiet::default()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_shows_all_that_its_copy_knows_is_fresh_and_one_without_a_copy_is_unproven() {
    let ground = Ground::new();
    ground.fill().await;
    ground.job().run(&Quiet::default()).await.unwrap();
    let verdict = ground.look().await;
    assert_eq!((verdict.freshness, verdict.copies.len()), (Freshness::Proven, 1));
    assert_eq!(verdict.witnessed, verdict.newest_seen);
    assert!(verdict.refuse().is_ok());
    let alone = look(&*ground.source, &[], &ground.signers(), &about(), &Quiet::default()).await.unwrap();
    assert_eq!((alone.freshness, alone.newest_seen), (Freshness::Unproven, verdict.newest_seen));
    assert!(alone.said().ends_with("freshness unproven"), "{}", alone.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_went_on_since_the_last_copy_is_fresh() {
    let ground = Ground::new();
    ground.fill().await;
    ground.job().run(&Quiet::default()).await.unwrap();
    ground.estate.clock.advance(SignedDuration::from_hours(1));
    ground.wal(100, 200, false, 35).await;
    let verdict = ground.look().await;
    assert_eq!(verdict.freshness, Freshness::Proven);
    assert!(verdict.witnessed < verdict.newest_seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_set_back_is_found_out_with_chain_and_heads() {
    let ground = Ground::new();
    ground.fill().await;
    let before = ground.source.snapshot();
    ground.estate.clock.advance(SignedDuration::from_hours(1));
    let newest = ground.wal(100, 200, false, 35).await;
    ground.job().run(&Quiet::default()).await.unwrap();
    ground.source.roll_back(&before);
    let verdict = ground.look().await;
    assert_eq!(verdict.freshness, Freshness::RolledBack);
    let lost = &verdict.lost[0];
    assert_eq!((&lost.known.name, lost.shown.is_some()), (&newest.name, true));
    let failure = verdict.refuse().unwrap_err();
    assert_eq!(failure.kind, Kind::Integrity);
    assert!(failure.cause.contains(&newest.name) && newest.name.starts_with(&failure.object), "{failure}");
    assert!(failure.cause.contains(&lost.shown.as_ref().unwrap().name), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_envelope_taken_out_of_the_middle_and_an_emptied_store_are_found_out() {
    let ground = Ground::new();
    let all = ground.fill().await;
    ground.wal(110, 200, false, 35).await;
    ground.job().run(&Quiet::default()).await.unwrap();
    let middle = &all[2].name;
    ground.source.drop_version(middle, &ground.source.listed(middle).remove(0).version);
    assert_eq!(ground.look().await.lost[0].known.name, *middle);
    let empty = crate::store::memory::MemoryStore::new(ground.estate.clock.clone());
    ground.source.roll_back(&empty.snapshot());
    let verdict = ground.look().await;
    assert_eq!((verdict.freshness, verdict.newest_seen), (Freshness::RolledBack, None));
    assert!(verdict.lost.len() >= 5 && verdict.lost.iter().all(|lost| lost.shown.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lapsed_and_went_is_no_alarm_and_neither_is_what_is_only_damaged() {
    let ground = Ground::new();
    let all = ground.fill().await;
    ground.job().run(&Quiet::default()).await.unwrap();
    let (tail, stretch) = (&all[3].name, &all[2].name);
    ground.source.alter(stretch, &ground.source.listed(stretch).remove(0).version, |bytes| bytes[9] ^= 1);
    assert_eq!(ground.look().await.freshness, Freshness::Proven);
    ground.source.drop_version(tail, &ground.source.listed(tail).remove(0).version);
    assert_eq!(ground.look().await.freshness, Freshness::RolledBack);
    // Its lock was for seven days. The copy's clock counts: the store's may have been set ahead to make this come true.
    ground.source.set_skew(SignedDuration::from_hours(24 * 30));
    assert_eq!(ground.look().await.freshness, Freshness::RolledBack);
    ground.source.set_skew(SignedDuration::ZERO);
    ground.estate.clock.advance(SignedDuration::from_hours(24 * 7));
    assert_eq!(ground.look().await.freshness, Freshness::Proven);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_alone_are_a_witness_and_never_pass_for_what_they_name() {
    let ground = Ground::new();
    ground.fill().await;
    let before = ground.source.snapshot();
    ground.estate.clock.advance(SignedDuration::from_mins(1));
    let newest = ground.wal(110, 120, true, 7).await;
    let signers = ground.signers();
    let folders = 6; // two of sets, two of points, stretches, tails
    assert_eq!(publish(&*ground.source, &*ground.copy, &signers).await.unwrap(), folders);
    assert_eq!(publish(&*ground.source, &*ground.copy, &signers).await.unwrap(), 0);
    assert_eq!(ground.look().await.freshness, Freshness::Proven);
    assert!(
        ground
            .copy
            .names()
            .iter()
            .all(|name| name.starts_with(HEADS) && name.parse::<super::super::name::Name>().is_err())
    );
    let reader = ground.reader(ground.copy.clone());
    assert!(reader.stretches(crate::ids::SystemId(7), None).await.unwrap().good.is_empty());
    ground.source.roll_back(&before);
    let verdict = ground.look().await;
    assert_eq!(verdict.lost[0].known.name, newest.name);
    // A whole copy beside heads is not confused by them.
    ground.job().run(&Quiet::default()).await.unwrap();
    ground.assert_copy_is_sound().await;
    assert_eq!(fetch::candidates(&*ground.copy, "wal/").await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_names_in_a_copy_are_no_testimony() {
    let ground = Ground::new();
    let all = ground.fill().await;
    ground.job().run(&Quiet::default()).await.unwrap();
    let folder = all[2].name.rsplit_once('/').unwrap().0.to_owned();
    let far = ground.estate.until(400);
    for n in 0..5 {
        let name = format!("{folder}/{}-{}.envelope.json", Lsn(900 + n).sortable(), Lsn(901 + n).sortable());
        ground.copy.overwrite(&name, "{}", far);
        ground.copy.overwrite(&format!("{HEADS}{name}"), "{}", far);
    }
    assert_eq!(ground.look().await.freshness, Freshness::Proven);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_withheld_is_found_behind_newer_ones_that_lapsed() {
    let ground = Ground::new();
    ground.fill().await;
    let long = ground.wal(110, 120, true, 35).await;
    ground.estate.clock.advance(SignedDuration::from_mins(1));
    let short = ground.wal(120, 130, true, 7).await;
    ground.job().run(&Quiet::default()).await.unwrap();
    ground.estate.clock.advance(SignedDuration::from_hours(24 * 10));
    for gone in [&short, &long] {
        assert_eq!(ground.look().await.freshness, Freshness::Proven);
        ground.source.drop_version(&gone.name, &ground.source.listed(&gone.name).remove(0).version);
    }
    let verdict = ground.look().await;
    assert_eq!(verdict.lost.iter().map(|lost| &lost.known.name).collect::<Vec<_>>(), [&long.name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_far_ahead_signed_or_not_end_no_chains_heads() {
    let ground = Ground::new();
    ground.fill().await;
    let signers = ground.signers();
    // By whoever stole the writer's key, and by whoever may put.
    let forged = ground.wal(900_000, 900_010, true, 35).await;
    let folder = forged.name.rsplit_once('/').unwrap().0.to_owned();
    for n in 0..100 {
        let name = format!("{folder}/{}-{}.envelope.json", Lsn(910_000 + n).sortable(), Lsn(910_001 + n).sortable());
        ground.source.overwrite(&name, "{}", ground.estate.until(35));
    }
    publish(&*ground.source, &*ground.copy, &signers).await.unwrap();
    ground.estate.clock.advance(SignedDuration::from_mins(1));
    let newest = ground.wal(110, 120, true, 7).await;
    assert_eq!(publish(&*ground.source, &*ground.copy, &signers).await.unwrap(), 1);
    assert!(ground.copy.names().contains(&format!("{HEADS}{}", newest.name)));
    ground.source.drop_version(&newest.name, &ground.source.listed(&newest.name).remove(0).version);
    assert_eq!(ground.look().await.lost[0].known.name, newest.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_does_not_answer_is_no_witness() {
    use crate::store::counting::Op;
    use crate::store::failing::{Answer, Failing, Fault};
    let ground = Ground::new();
    ground.fill().await;
    let fault = Fault::Nth { op: Op::Now, nth: 1, answer: Answer::Unreachable };
    let silent = Failing::new(ground.copy.clone(), vec![fault]);
    let places = [Place { name: "away".into(), store: std::sync::Arc::new(silent) }];
    let watch = Quiet::default();
    let verdict = look(&*ground.source, &places, &ground.signers(), &about(), &watch).await.unwrap();
    assert_eq!(verdict.freshness, Freshness::Unproven);
    assert!(watch.findings()[0].object.contains("away"));
}

fn head(folder: usize, at: usize, locked_minutes: i64) -> Head {
    let start: Timestamp = "2026-11-22T07:24:00Z".parse().unwrap();
    let name = format!("{folder}/{at:04}.envelope.json");
    Head {
        sha256: Digest::of(name.as_bytes()),
        name,
        writer: "w".into(),
        time: start + SignedDuration::from_mins(at as i64),
        locked_until: start + SignedDuration::from_mins(locked_minutes),
    }
}

proptest! {
    /// Chains of some lengths, of which the store shows some envelopes and the copy knows some.
    #[test]
    fn it_is_rolled_back_exactly_when_something_locked_is_known_and_not_shown(
        shown in proptest::collection::btree_set((0..3_usize, 0..12_usize), 0..30),
        known in proptest::collection::btree_map((0..3_usize, 0..12_usize), -30..30_i64, 0..30),
    ) {
        let now: Timestamp = "2026-11-22T07:24:00Z".parse().unwrap();
        let mut store = Shown::default();
        for (folder, at) in &shown {
            let head = head(*folder, *at, 10);
            store.names.entry(format!("{folder}/")).or_default().insert(head.name.clone());
            store.heads.insert(format!("{folder}/"), head);
        }
        let mut testimony = Testimony { copy: "c".into(), now, heads: BTreeMap::new() };
        for ((folder, at), minutes) in &known {
            testimony.heads.entry(format!("{folder}/")).or_default().push(head(*folder, *at, *minutes));
        }
        let missing = known.iter().filter(|(place, minutes)| !shown.contains(place) && **minutes > 5).count();
        let verdict = judge(&store, &[testimony]);
        prop_assert_eq!(verdict.freshness == Freshness::RolledBack, missing > 0);
        prop_assert_eq!(verdict.refuse().is_err(), missing > 0);
        for lost in &verdict.lost {
            // Of each chain the newest, once.
            prop_assert!(!store.names.get(&lost.chain).is_some_and(|names| names.contains(&lost.known.name)));
            prop_assert_eq!(verdict.lost.iter().filter(|other| other.chain == lost.chain).count(), 1);
        }
        prop_assert_eq!(judge(&store, &[]).freshness, Freshness::Unproven);
    }
}
