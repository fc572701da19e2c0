//! A store that fails as planned: for tests of what happens then.
//!
//! A plan is a list of [`Fault`]s, counted per [`Failing`], with no state outside it. What fails was not done, except
//! where the fault says that it was done and the answer got lost. The first fault that applies decides; an empty plan
//! passes everything on.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use jiff::Timestamp;

use super::counting::Op;
use super::{Listed, LockState, Promises, Store, StoreError, Version};

/// One thing that goes wrong. Calls are counted from 1.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The `nth` call of this kind fails and does nothing.
    Nth { op: Op, nth: u64, answer: Answer },
    /// The `nth` call of this kind is carried out, durably, and answers an error.
    DoneButUnanswered { op: Op, nth: u64, answer: Answer },
    /// Calls of this kind fail that would move more than `bytes` in all: a full disk, a broken line.
    AfterBytes { op: Op, bytes: u64, answer: Answer },
    /// The process dies at its `call`th call of any kind: that one (carried out before, when `done`) and all later
    /// ones get no answer.
    Crash { call: u64, done: bool },
    /// The `call`th call of any kind gets no answer in time (and was carried out, when `done`); later ones do.
    Timeout { call: u64, done: bool },
    /// The `nth` listing breaks off with an error after so many entries.
    ListBreaks { nth: u64, entries: usize, answer: Answer },
    /// Reads of objects whose name contains this text see byte `at` (counted from the object's start) inverted.
    Flip { name_contains: String, at: u64 },
}

/// Which error a fault answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    NotFound,
    Exists,
    Locked,
    Full,
    Unreachable,
    Other,
}

impl Answer {
    fn about(self, name: &str) -> StoreError {
        let planned = || std::io::Error::other("a planned fault");
        let name = name.to_owned();
        match self {
            Self::NotFound => StoreError::NotFound { name },
            Self::Exists => StoreError::Exists { name },
            Self::Locked => StoreError::Locked { name, until: "the plan says otherwise".to_owned() },
            Self::Full => StoreError::Full { name, source: planned() },
            Self::Unreachable => StoreError::Unreachable { name, source: Box::new(planned()) },
            Self::Other => StoreError::Other { name, what: "failed".to_owned(), source: Some(Box::new(planned())) },
        }
    }
}

/// What is to become of one call.
enum Course {
    Go,
    Refuse(StoreError),
    GoThenAnswer(StoreError),
}

#[derive(Debug, Default)]
struct Counts {
    all: u64,
    of: HashMap<Op, u64>,
    bytes: HashMap<Op, u64>,
}

/// Passes every call on, but for what the plan says.
#[derive(Debug)]
pub struct Failing {
    inner: Arc<dyn Store>,
    plan: Vec<Fault>,
    counts: Mutex<Counts>,
}

impl Failing {
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, plan: Vec<Fault>) -> Self {
        Self { inner, plan, counts: Mutex::default() }
    }

    /// How many calls were made, of any kind: where a crash can be planned.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).all
    }

    /// Counts one call that would move `bytes`, and says what becomes of it.
    fn course(&self, op: Op, name: &str, bytes: u64) -> Course {
        self.nth_and_course(op, name, bytes).1
    }

    fn nth_and_course(&self, op: Op, name: &str, bytes: u64) -> (u64, Course) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all += 1;
        let all = counts.all;
        let of = counts.of.entry(op).or_default();
        *of += 1;
        let of = *of;
        let moved = counts.bytes.get(&op).copied().unwrap_or(0).saturating_add(bytes);
        for fault in &self.plan {
            match fault {
                Fault::Nth { op: planned, nth, answer } if (*planned, *nth) == (op, of) => {
                    return (of, Course::Refuse(answer.about(name)));
                }
                Fault::DoneButUnanswered { op: planned, nth, answer } if (*planned, *nth) == (op, of) => {
                    counts.bytes.insert(op, moved);
                    return (of, Course::GoThenAnswer(answer.about(name)));
                }
                Fault::AfterBytes { op: planned, bytes, answer } if *planned == op && moved > *bytes => {
                    return (of, Course::Refuse(answer.about(name)));
                }
                Fault::Crash { call, done: true } | Fault::Timeout { call, done: true } if *call == all => {
                    return (of, Course::GoThenAnswer(Answer::Unreachable.about(name)));
                }
                Fault::Crash { call, .. } if *call <= all => {
                    return (of, Course::Refuse(Answer::Unreachable.about(name)));
                }
                Fault::Timeout { call, done: false } if *call == all => {
                    return (of, Course::Refuse(Answer::Unreachable.about(name)));
                }
                _ => {}
            }
        }
        counts.bytes.insert(op, moved);
        (of, Course::Go)
    }

    async fn run<T>(
        &self,
        op: Op,
        name: &str,
        bytes: u64,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match self.course(op, name, bytes) {
            Course::Go => call.await,
            Course::Refuse(error) => Err(error),
            Course::GoThenAnswer(error) => call.await.and(Err(error)),
        }
    }

    /// The bytes as the plan wants them seen; `start` is where in the object they begin.
    fn altered(&self, name: &str, start: u64, bytes: Bytes) -> Bytes {
        let mut altered = Vec::from(bytes);
        for fault in &self.plan {
            if let Fault::Flip { name_contains, at } = fault
                && name.contains(name_contains)
                && let Some(byte) = at.checked_sub(start).and_then(|at| altered.get_mut(usize::try_from(at).ok()?))
            {
                *byte = !*byte;
            }
        }
        altered.into()
    }
}

#[async_trait]
impl Store for Failing {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.run(Op::Now, "the store's clock", 0, self.inner.now()).await
    }

    async fn put(&self, name: &str, bytes: Bytes, locked_until: Timestamp) -> Result<Version, StoreError> {
        let length = bytes.len() as u64;
        self.run(Op::Put, name, length, self.inner.put(name, bytes, locked_until)).await
    }

    /// The bytes of a `get` without a range are not known beforehand: it is looked at first and counted then.
    async fn get(&self, name: &str, version: Option<&Version>, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let start = range.as_ref().map_or(0, |range| range.start);
        let read = self.inner.get(name, version, range).await;
        let length = read.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let bytes = self.run(Op::Get, name, length, async { read }).await?;
        Ok(self.altered(name, start, bytes))
    }

    fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>> {
        let about = if prefix.is_empty() { "the listing" } else { prefix };
        let (of, course) = self.nth_and_course(Op::List, about, 0);
        if let Course::Refuse(error) | Course::GoThenAnswer(error) = course {
            return stream::once(async { Err(error) }).boxed();
        }
        let breaks = self.plan.iter().find_map(|fault| match fault {
            Fault::ListBreaks { nth, entries, answer } if *nth == of => Some((*entries, *answer)),
            _ => None,
        });
        let listing = self.inner.list(prefix);
        let Some((entries, answer)) = breaks else { return listing };
        let error = answer.about(about);
        listing.take(entries).chain(stream::once(async { Err(error) })).boxed()
    }

    async fn lock_state(&self, name: &str, version: &Version) -> Result<LockState, StoreError> {
        self.run(Op::LockState, name, 0, self.inner.lock_state(name, version)).await
    }

    async fn extend(&self, name: &str, version: &Version, until: Timestamp) -> Result<(), StoreError> {
        self.run(Op::Extend, name, 0, self.inner.extend(name, version, until)).await
    }

    async fn hold(&self, name: &str, version: &Version, held: bool) -> Result<(), StoreError> {
        self.run(Op::Hold, name, 0, self.inner.hold(name, version, held)).await
    }

    async fn remove(&self, name: &str, version: &Version) -> Result<(), StoreError> {
        self.run(Op::Remove, name, 0, self.inner.remove(name, version)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::contract;
    use crate::store::local::LocalStore;

    struct Fixture {
        _folder: tempfile::TempDir,
        clock: Clock,
        local: Arc<dyn Store>,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::set_to("2026-11-22T08:00:00Z".parse().unwrap());
        let local = Arc::new(LocalStore::open(folder.path(), clock.clone()).unwrap());
        Fixture { _folder: folder, clock, local }
    }

    impl Fixture {
        fn planned(&self, plan: Vec<Fault>) -> Failing {
            Failing::new(self.local.clone(), plan)
        }
        async fn put(&self, store: &Failing, name: &str) -> Result<Version, StoreError> {
            store.put(name, Bytes::from_static(b"0123456789"), self.clock.now()).await
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn with_an_empty_plan_it_keeps_the_contract() {
        let fixture = fixture();
        let make = || async { Ok(Arc::new(fixture.planned(vec![])) as Arc<dyn Store>) };
        contract::check(make, &fixture.clock, "c").await.unwrap();
    }

    #[tokio::test]
    async fn only_the_nth_call_fails_and_it_does_nothing() {
        let fixture = fixture();
        let store = fixture.planned(vec![Fault::Nth { op: Op::Put, nth: 2, answer: Answer::Full }]);
        fixture.put(&store, "a").await.unwrap();
        assert!(matches!(fixture.put(&store, "b").await, Err(StoreError::Full { name, .. }) if name == "b"));
        assert!(matches!(fixture.local.get("b", None, None).await, Err(StoreError::NotFound { .. })));
        fixture.put(&store, "b").await.unwrap();
    }

    #[tokio::test]
    async fn a_put_can_be_durable_and_answer_an_error() {
        let fixture = fixture();
        let store =
            fixture.planned(vec![Fault::DoneButUnanswered { op: Op::Put, nth: 1, answer: Answer::Unreachable }]);
        assert!(matches!(fixture.put(&store, "a").await, Err(StoreError::Unreachable { .. })));
        assert_eq!(fixture.local.get("a", None, None).await.unwrap(), "0123456789");
    }

    #[tokio::test]
    async fn no_more_than_the_planned_bytes_get_through() {
        let fixture = fixture();
        let store = fixture.planned(vec![
            Fault::AfterBytes { op: Op::Put, bytes: 25, answer: Answer::Full },
            Fault::AfterBytes { op: Op::Get, bytes: 13, answer: Answer::Unreachable },
        ]);
        fixture.put(&store, "a").await.unwrap();
        fixture.put(&store, "b").await.unwrap();
        assert!(matches!(fixture.put(&store, "c").await, Err(StoreError::Full { .. })));
        store.get("a", None, None).await.unwrap();
        store.get("b", None, Some(0..3)).await.unwrap();
        assert!(matches!(store.get("b", None, Some(3..4)).await, Err(StoreError::Unreachable { .. })));
    }

    #[tokio::test]
    async fn after_a_crash_nothing_is_answered() {
        for done in [false, true] {
            let fixture = fixture();
            let store = fixture.planned(vec![Fault::Crash { call: 2, done }]);
            fixture.put(&store, "a").await.unwrap();
            fixture.put(&store, "b").await.unwrap_err();
            store.now().await.unwrap_err();
            store.get("a", None, None).await.unwrap_err();
            assert!(store.list("").next().await.unwrap().is_err());
            assert_eq!(fixture.local.get("b", None, None).await.is_ok(), done);
            assert_eq!(store.calls(), 5);
        }
    }

    #[tokio::test]
    async fn a_call_can_be_unanswered_while_the_store_goes_on() {
        for done in [false, true] {
            let fixture = fixture();
            let store = fixture.planned(vec![Fault::Timeout { call: 2, done }]);
            fixture.put(&store, "a").await.unwrap();
            assert!(matches!(fixture.put(&store, "b").await, Err(StoreError::Unreachable { .. })));
            assert_eq!(store.get("b", None, None).await.is_ok(), done);
        }
    }

    #[tokio::test]
    async fn a_listing_can_break_off_in_the_middle() {
        let fixture = fixture();
        let store = fixture.planned(vec![Fault::ListBreaks { nth: 2, entries: 1, answer: Answer::Unreachable }]);
        fixture.put(&store, "a").await.unwrap();
        fixture.put(&store, "b").await.unwrap();
        assert_eq!(store.list("").filter(|entry| std::future::ready(entry.is_ok())).count().await, 2);
        let second: Vec<_> = store.list("").collect().await;
        assert!(matches!(second.as_slice(), [Ok(_), Err(StoreError::Unreachable { .. })]));
    }

    #[tokio::test]
    async fn a_flipped_byte_is_seen_where_it_lies_whatever_the_range() {
        let fixture = fixture();
        let store = fixture.planned(vec![Fault::Flip { name_contains: "pack".to_owned(), at: 4 }]);
        fixture.put(&store, "packs/a").await.unwrap();
        fixture.put(&store, "sets/a").await.unwrap();
        let mut flipped = b"0123456789".to_vec();
        flipped[4] = !b'4';
        assert_eq!(store.get("packs/a", None, None).await.unwrap(), flipped);
        assert_eq!(store.get("packs/a", None, Some(3..6)).await.unwrap(), flipped[3..6]);
        assert_eq!(store.get("packs/a", None, Some(5..6)).await.unwrap(), "5");
        assert_eq!(store.get("sets/a", None, None).await.unwrap(), "0123456789");
    }
}
