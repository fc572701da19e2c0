use std::collections::BTreeSet;

use futures::executor::block_on;
use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::store::counting::Op;
use crate::store::failing::{Answer, Failing, Fault};
use crate::store::memory::MemoryStore;
use crate::watch::{Finding, Level, Quiet};

struct Ground {
    primary: Arc<MemoryStore>,
    copy: Arc<MemoryStore>,
    watch: Arc<Quiet>,
    clock: Clock,
}

fn ground() -> Ground {
    let clock = Clock::set_to("2026-11-22T07:24:00Z".parse().unwrap());
    let store = || Arc::new(MemoryStore::new(clock.clone()));
    Ground { primary: store(), copy: store(), watch: Arc::default(), clock }
}

impl Ground {
    fn either(&self) -> Either {
        self.of(self.primary.clone(), self.copy.clone())
    }

    fn of(&self, primary: Arc<dyn Store>, copy: Arc<dyn Store>) -> Either {
        let place = |name: &str, store| Place { name: name.into(), store };
        Either::new(vec![place("primary", primary), place("drawer", copy)], self.watch.clone())
    }

    fn put(&self, store: &MemoryStore, name: &str, text: &'static str) {
        let until = self.clock.now() + SignedDuration::from_hours(1);
        block_on(store.put(name, Bytes::from_static(text.as_bytes()), until)).unwrap();
    }

    fn warnings(&self) -> Vec<Finding> {
        self.watch.findings().into_iter().filter(|finding| finding.level == Level::Warning).collect()
    }
}

fn names(either: &Either) -> Result<Vec<String>, StoreError> {
    block_on(either.list("").map_ok(|listed| listed.name).try_collect())
}

fn silent(store: Arc<MemoryStore>) -> Arc<Failing> {
    let all = [Op::Now, Op::Get, Op::List, Op::LockState];
    let each = |op| (1..20).map(move |nth| Fault::Nth { op, nth, answer: Answer::Unreachable });
    Arc::new(Failing::new(store, all.into_iter().flat_map(each).collect()))
}

#[test]
fn what_the_first_place_has_is_read_there_and_nothing_is_said() {
    let ground = ground();
    ground.put(&ground.primary, "a/x", "first");
    ground.put(&ground.copy, "a/x", "second");
    assert_eq!(block_on(ground.either().get("a/x", None, None)).unwrap(), "first");
    assert!(ground.watch.findings().is_empty());
}

#[test]
fn what_is_missing_in_the_first_place_is_read_from_the_copy_with_a_warning_that_names_both() {
    let ground = ground();
    ground.put(&ground.copy, "a/x", "second");
    assert_eq!(block_on(ground.either().get("a/x", None, Some(0..3))).unwrap(), "sec");
    let said = ground.warnings().remove(0);
    assert_eq!(said.object, "a/x");
    assert!(said.what.contains("missing in primary") && said.what.contains("drawer"), "{}", said.what);
}

#[test]
fn a_version_of_the_copy_is_called_altered_where_the_first_place_has_the_name() {
    let ground = ground();
    ground.put(&ground.primary, "a/x", "wrong!");
    ground.put(&ground.copy, "a/x", "right!");
    let either = ground.either();
    let listed: Vec<Listed> = block_on(either.list("a/x").try_collect()).unwrap();
    let read: Vec<Bytes> =
        listed.iter().map(|listed| block_on(either.get("a/x", Some(&listed.version), None)).unwrap()).collect();
    assert_eq!(read, ["wrong!", "right!"]);
    assert!(ground.warnings()[0].what.contains("altered in primary"));
}

#[test]
fn what_the_first_place_has_too_is_not_called_altered_whichever_is_read() {
    let ground = ground();
    ground.put(&ground.primary, "a/x", "same");
    ground.put(&ground.copy, "a/x", "same");
    let either = ground.either();
    let listed: Vec<Listed> = block_on(either.list("a/x").try_collect()).unwrap();
    for listed in listed {
        assert_eq!(block_on(either.get("a/x", Some(&listed.version), Some(1..3))).unwrap(), "am");
    }
    assert!(ground.warnings().is_empty(), "{:?}", ground.warnings());
}

#[test]
fn an_envelope_that_only_the_copy_has_is_the_witness_matter_and_no_warning() {
    let ground = ground();
    ground.put(&ground.copy, "a/x.envelope.json", "{}");
    block_on(ground.either().get("a/x.envelope.json", None, None)).unwrap();
    assert!(ground.warnings().is_empty());
}

#[test]
fn a_first_place_that_is_silent_is_said_once_and_everything_comes_from_the_copy() {
    let ground = ground();
    for name in ["a/x", "a/y"] {
        ground.put(&ground.primary, name, "first");
        ground.put(&ground.copy, name, "second");
    }
    let either = ground.of(silent(ground.primary.clone()), ground.copy.clone());
    assert_eq!(names(&either).unwrap(), ["a/x", "a/y"]);
    assert_eq!(block_on(either.get("a/x", None, None)).unwrap(), "second");
    assert_eq!(block_on(either.now()).unwrap(), ground.clock.now());
    assert_eq!(ground.warnings().len(), 1, "{:?}", ground.warnings());
}

#[test]
fn a_version_of_a_place_that_went_silent_is_read_elsewhere() {
    let ground = ground();
    ground.put(&ground.primary, "a/x", "same");
    ground.put(&ground.copy, "a/x", "same");
    let fails = Fault::Nth { op: Op::Get, nth: 1, answer: Answer::Unreachable };
    let either = ground.of(Arc::new(Failing::new(ground.primary.clone(), vec![fails])), ground.copy.clone());
    let listed: Vec<Listed> = block_on(either.list("a/x").try_collect()).unwrap();
    assert_eq!(block_on(either.get("a/x", Some(&listed[0].version), None)).unwrap(), "same");
    assert_eq!(ground.warnings().len(), 1);
}

#[test]
fn a_silent_copy_is_a_note_and_two_silent_places_are_an_error() {
    let ground = ground();
    ground.put(&ground.primary, "a/x", "first");
    let either = ground.of(ground.primary.clone(), silent(ground.copy.clone()));
    assert_eq!(names(&either).unwrap(), ["a/x"]);
    assert!(ground.warnings().is_empty() && ground.watch.findings().len() == 1);
    let both = ground.of(silent(ground.primary.clone()), silent(ground.copy.clone()));
    assert!(matches!(names(&both), Err(StoreError::Unreachable { .. })));
    assert!(matches!(block_on(both.get("a/x", None, None)), Err(StoreError::Unreachable { .. })));
}

#[test]
fn an_object_that_nobody_has_is_not_found_and_one_that_is_out_of_reach_is_not_called_missing() {
    let ground = ground();
    assert!(matches!(block_on(ground.either().get("a/x", None, None)), Err(StoreError::NotFound { .. })));
    let either = ground.of(silent(ground.primary.clone()), ground.copy.clone());
    assert!(matches!(block_on(either.get("a/x", None, None)), Err(StoreError::Unreachable { .. })));
}

#[test]
fn nothing_is_changed_through_it() {
    let ground = ground();
    ground.put(&ground.primary, "a/x", "first");
    let either = ground.either();
    let version = block_on(either.list("").try_collect::<Vec<_>>()).unwrap().remove(0).version;
    let until = ground.clock.now();
    assert!(block_on(either.put("a/y", Bytes::new(), until)).is_err());
    assert!(block_on(either.extend("a/x", &version, until)).is_err());
    assert!(block_on(either.hold("a/x", &version, true)).is_err());
    assert!(block_on(either.remove("a/x", &version)).is_err());
    assert_eq!(ground.primary.names(), ["a/x"]);
    assert!(block_on(either.lock_state("a/x", &version)).unwrap().retained_until.is_some());
    for nonsense in ["", "1", "7:1", "x:1"] {
        assert!(block_on(either.lock_state("a/x", &Version(nonsense.into()))).is_err());
    }
}

proptest! {
    #[test]
    fn a_listing_is_the_union_in_the_order_of_names(
        one in proptest::collection::btree_set("[a-c]/[a-d]{1,2}", 0..12),
        other in proptest::collection::btree_set("[a-c]/[a-d]{1,2}", 0..12),
    ) {
        let ground = ground();
        one.iter().for_each(|name| ground.put(&ground.primary, name, "x"));
        other.iter().for_each(|name| ground.put(&ground.copy, name, "x"));
        let listed = names(&ground.either()).unwrap();
        prop_assert!(listed.is_sorted());
        prop_assert_eq!(listed.len(), one.len() + other.len());
        let union: BTreeSet<String> = one.union(&other).cloned().collect();
        prop_assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), union);
    }
}
