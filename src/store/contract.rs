//! What every store must do, tried on a real one: the sentences on the module's page as checks.
//!
//! [`check`] is handed a way to open the store (again and again, always the same place) and a prefix that is its own.
//! It leaves objects there, some locked for an hour. It asks nothing of a store that the store does not promise: where
//! `create_only` is false, a second `put` may make a second version, but the first must stay readable.
//!
//! It is compiled into the library because stores that live behind a server are tried from `tests/`. It panics
//! nowhere: the first broken rule comes back as [`ContractBroken`].

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp, Unit};

use super::{Listed, LockState, Store, StoreError, Version};
use crate::clock::Clock;

/// A rule that a store does not keep, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store breaks its contract: {rule}: {detail}")]
pub struct ContractBroken {
    pub rule: &'static str,
    pub detail: String,
}

type Kept = Result<(), ContractBroken>;

/// How far a server's clock and ours, or its clock and its listing (S3 rounds to seconds), may be apart.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(5);
/// How long locks last that the checks wait for on a real clock. RGW was seen to honour 3 s.
const SHORT: SignedDuration = SignedDuration::from_secs(4);
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// How many times each race is run.
const ROUNDS: usize = 24;
/// How many take part in a race for one name.
const RACERS: usize = 8;
/// More than any buffer on the way, and above the size from which S3 clients like to split.
const LARGE_BYTES: usize = 40 << 20;

/// Tries every rule on the store that `make` opens, with names below `under`. A clock that stands still is moved on
/// when a lock has to lapse; on the machine's own clock that takes seconds.
///
/// # Errors
/// The first rule that is broken.
pub async fn check<M, F>(make: M, clock: &Clock, under: &str) -> Kept
where
    M: Fn() -> F,
    F: Future<Output = Result<Arc<dyn Store>, StoreError>>,
{
    let store = make().await.or_broken("a store opens")?;
    let bench = Bench { store, clock: clock.clone(), under: under.to_owned() };
    bench.objects_are_whole().await?;
    bench.ranges_are_exact().await?;
    bench.names_cannot_escape().await?;
    bench.what_is_not_there_is_not_found().await?;
    bench.the_first_put_stays().await?;
    bench.listings_are_whole_and_in_order().await?;
    bench.locks_hold_from_birth_and_only_grow().await?;
    bench.holds_outlast_locks().await?;
    bench.extend_and_remove_are_ordered().await?;
    let mut racers = Vec::new();
    for _ in 0..RACERS {
        racers.push(make().await.or_broken("a store opens many times")?);
    }
    bench.a_name_is_won_once(&racers).await?;
    drop(racers);
    let (name, version) = bench.leave_one_behind().await?;
    let Bench { store, .. } = bench;
    drop(store);
    let store = make().await.or_broken("a store opens again")?;
    Bench { store, clock: clock.clone(), under: under.to_owned() }.finds_it_again(&name, &version).await
}

struct Bench {
    store: Arc<dyn Store>,
    clock: Clock,
    under: String,
}

impl Bench {
    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.under)
    }

    /// A time from now in whole seconds, which is what every store can keep.
    async fn in_future(&self, by: SignedDuration) -> Result<Timestamp, ContractBroken> {
        let rule = "a store knows the time";
        let later = self.store.now().await.or_broken(rule)?.checked_add(by).or_broken(rule)?;
        later.round(Unit::Second).or_broken(rule)
    }

    /// Waits (or moves the clock) until the store's time is past `until`.
    async fn pass(&self, until: Timestamp) -> Kept {
        loop {
            let now = self.store.now().await.or_broken("a store knows the time")?;
            if now > until {
                return Ok(());
            }
            self.clock.advance(until.duration_since(now) + SignedDuration::from_millis(1));
            if self.clock.now() <= until {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }

    async fn put(
        &self,
        rule: &'static str,
        name: &str,
        text: &str,
        until: Timestamp,
    ) -> Result<Version, ContractBroken> {
        self.store.put(name, Bytes::copy_from_slice(text.as_bytes()), until).await.or_broken(rule)
    }

    async fn listed(&self, rule: &'static str, prefix: &str) -> Result<Vec<Listed>, ContractBroken> {
        self.store.list(prefix).try_collect().await.or_broken(rule)
    }

    /// The versions of one object. Its name may be the beginning of others'.
    async fn versions(&self, rule: &'static str, name: &str) -> Result<Vec<Listed>, ContractBroken> {
        let mut listed = self.listed(rule, name).await?;
        listed.retain(|entry| entry.name == name);
        Ok(listed)
    }

    async fn objects_are_whole(&self) -> Kept {
        let rule = "what was put is what is read";
        let large: Vec<u8> = (0..LARGE_BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let until = self.in_future(SHORT).await?;
        for (name, bytes) in
            [("whole/empty", Bytes::new()), ("whole/one", Bytes::from_static(b"\0")), ("whole/large", large.into())]
        {
            let name = self.name(name);
            let version = self.store.put(&name, bytes.clone(), until).await.or_broken(rule)?;
            for asked in [None, Some(&version)] {
                let read = self.store.get(&name, asked, None).await.or_broken(rule)?;
                ensure(read == bytes, rule, || {
                    format!("{name}: {} bytes put, {} read, or others", bytes.len(), read.len())
                })?;
            }
        }
        Ok(())
    }

    async fn ranges_are_exact(&self) -> Kept {
        let rule = "a range is read exactly or refused";
        let name = self.name("ranges/ten");
        let version = self.put(rule, &name, "0123456789", self.in_future(SHORT).await?).await?;
        for range in [0..10, 0..1, 9..10, 3..7, 4..4, 10..10] {
            let wanted = "0123456789".get(range.start as usize..range.end as usize).unwrap_or_default();
            let read = self.store.get(&name, Some(&version), Some(range.clone())).await.or_broken(rule)?;
            ensure(read == wanted, rule, || format!("{range:?} gave {read:?}"))?;
        }
        #[allow(clippy::reversed_empty_ranges)]
        for range in [0..11, 9..11, 10..11, 11..11, 5..u64::MAX, 7..3] {
            let read = self.store.get(&name, None, Some(range.clone())).await;
            let refused = matches!(read, Err(StoreError::BadRange { bytes: 10, .. }));
            ensure(refused, rule, || format!("{range:?} of ten bytes gave {read:?}"))?;
        }
        Ok(())
    }

    async fn names_cannot_escape(&self) -> Kept {
        let rule = "a name that is no name is refused by every call";
        let version = Version("1".to_owned());
        let until = self.in_future(SHORT).await?;
        let long_part = self.name(&"x".repeat(super::PART_BYTES + 1));
        let long_name = self.name(&vec!["x"; super::NAME_BYTES].join("/"));
        let bad = [
            "",
            "/",
            "..",
            ".",
            "../x",
            "a/../../x",
            "a/./b",
            "/etc/passwd",
            "a//b",
            "a/",
            "a\0b",
            "a b",
            "a\\b",
            "a#1",
            "ä",
            "@locks/x",
            "a%2e%2e/b",
            "a\nb",
            &long_part,
            &long_name,
        ];
        for name in bad {
            let answers = [
                ("put", self.store.put(name, Bytes::new(), until).await.err()),
                ("get", self.store.get(name, None, None).await.err()),
                ("lock_state", self.store.lock_state(name, &version).await.err()),
                ("extend", self.store.extend(name, &version, until).await.err()),
                ("hold", self.store.hold(name, &version, true).await.err()),
                ("remove", self.store.remove(name, &version).await.err()),
            ];
            for (call, error) in answers {
                ensure(matches!(error, Some(StoreError::BadName { .. })), rule, || {
                    format!("{call} of {name:?} gave {error:?}")
                })?;
            }
        }
        for prefix in ["../", "/", "/etc/", "a/../..", "..", "a//", "\0", "@locks/"] {
            let found = self.listed(rule, prefix).await?;
            ensure(found.is_empty(), rule, || format!("a listing of {prefix:?} shows {found:?}"))?;
        }
        Ok(())
    }

    async fn what_is_not_there_is_not_found(&self) -> Kept {
        let rule = "what is not there is not found";
        let name = self.name("absent/there");
        let until = self.in_future(SHORT).await?;
        let version = self.put(rule, &name, "x", until).await?;
        let (nobody, below, above) = (self.name("absent/nobody"), self.name("absent/there/below"), self.name("absent"));
        let wrong = Version("no-such-version".to_owned());
        for (name, version) in [(&nobody, &version), (&below, &version), (&above, &version), (&name, &wrong)] {
            let answers = [
                self.store.get(name, Some(version), None).await.err(),
                self.store.lock_state(name, version).await.err(),
                self.store.extend(name, version, until).await.err(),
                self.store.hold(name, version, true).await.err(),
                self.store.remove(name, version).await.err(),
            ];
            for (call, error) in ["get", "lock_state", "extend", "hold", "remove"].iter().zip(answers) {
                ensure(matches!(error, Some(StoreError::NotFound { .. })), rule, || {
                    format!("{call} of {name} {version:?} gave {error:?}")
                })?;
            }
        }
        ensure(self.listed(rule, &nobody).await?.is_empty(), rule, || format!("{nobody} is listed"))
    }

    async fn the_first_put_stays(&self) -> Kept {
        let rule = "a second put of a name changes nothing about the first";
        let name = self.name("twice/a");
        let first_lock = self.in_future(HOUR).await?;
        let first = self.put(rule, &name, "first", first_lock).await?;
        let again =
            self.store.put(&name, Bytes::from_static(b"second, longer"), self.in_future(HOUR + HOUR).await?).await;
        let promised = self.store.promises().create_only;
        let fine = matches!(&again, Err(StoreError::Exists { .. }))
            || (!promised && again.as_ref().is_ok_and(|v| *v != first));
        ensure(fine, rule, || format!("create_only is {promised}, and the second put gave {again:?}"))?;
        let read = self.store.get(&name, Some(&first), None).await.or_broken(rule)?;
        ensure(read == "first", rule, || format!("the first version reads {read:?}"))?;
        let lock = self.store.lock_state(&name, &first).await.or_broken(rule)?;
        let wanted = LockState { retained_until: Some(first_lock), held: false };
        ensure(lock == wanted, rule, || format!("its lock is {lock:?}, not {wanted:?}"))
    }

    async fn listings_are_whole_and_in_order(&self) -> Kept {
        let rule = "a listing shows every object under a prefix, in name order, and nothing else";
        let until = self.in_future(SHORT).await?;
        let before = self.store.now().await.or_broken(rule)?;
        // '-' and '.' sort before '/', digits and letters after it.
        let rest =
            ["a-/x", "a-b", "a.b/c", "a.json", "a.json.sig", "a/B", "a/b", "a/b-c/d", "a/c/d", "a0", "aa/b", "b"];
        for rest in rest.iter().rev() {
            self.put(rule, &self.name(&format!("list/{rest}")), rest, until).await?;
        }
        let after = self.store.now().await.or_broken(rule)?;
        for prefix in ["", "a", "a/", "a/b", "a/b-c/", "a/b-c/d", "a.", "a.json", "a-", "aa", "b", "b/", "c", "A"] {
            let found = self.listed(rule, &self.name(&format!("list/{prefix}"))).await?;
            let names: Vec<_> = found.iter().map(|entry| entry.name.clone()).collect();
            let wanted: Vec<_> = rest
                .iter()
                .filter(|rest| rest.starts_with(prefix))
                .map(|rest| self.name(&format!("list/{rest}")))
                .collect();
            ensure(names == wanted, rule, || format!("under {prefix:?} {names:?}, not {wanted:?}"))?;
            for entry in found {
                let read = self.store.get(&entry.name, Some(&entry.version), None).await.or_broken(rule)?;
                ensure(read.len() as u64 == entry.bytes && entry.current, rule, || {
                    format!("{entry:?} has {} bytes", read.len())
                })?;
                let in_time = entry.created.duration_since(before) >= -TOLERANCE
                    && after.duration_since(entry.created) >= -TOLERANCE;
                ensure(in_time, rule, || format!("{entry:?} was put between {before} and {after}"))?;
            }
        }
        let everything = self.listed(rule, "").await?;
        let sorted = everything.iter().map(|entry| &entry.name).is_sorted();
        ensure(sorted && everything.len() >= rest.len(), rule, || {
            "the whole listing is out of order or short".to_owned()
        })
    }

    async fn locks_hold_from_birth_and_only_grow(&self) -> Kept {
        let rule = "a lock holds from birth, grows, never shrinks, and lapses";
        let name = self.name("locks/a");
        let (birth, longer) = (self.in_future(SHORT).await?, self.in_future(SHORT + SHORT).await?);
        let version = self.put(rule, &name, "x", birth).await?;
        self.locked(rule, &name, &version, birth).await?;
        for (until, wanted) in [(longer, longer), (birth, longer), (longer, longer)] {
            self.store.extend(&name, &version, until).await.or_broken(rule)?;
            self.locked(rule, &name, &version, wanted).await?;
        }
        self.pass(longer).await?;
        self.store.remove(&name, &version).await.or_broken(rule)?;
        self.gone(rule, &name, &version).await
    }

    async fn holds_outlast_locks(&self) -> Kept {
        let rule = "a hold keeps an object whose lock has lapsed, until it is lifted";
        let name = self.name("holds/a");
        let until = self.in_future(SHORT).await?;
        let version = self.put(rule, &name, "x", until).await?;
        self.store.hold(&name, &version, true).await.or_broken(rule)?;
        let state = self.store.lock_state(&name, &version).await.or_broken(rule)?;
        ensure(state == LockState { retained_until: Some(until), held: true }, rule, || {
            format!("the lock is {state:?}")
        })?;
        self.pass(until).await?;
        let refused = self.store.remove(&name, &version).await;
        ensure(matches!(refused, Err(StoreError::Locked { .. })), rule, || format!("remove gave {refused:?}"))?;
        self.store.hold(&name, &version, false).await.or_broken(rule)?;
        self.store.remove(&name, &version).await.or_broken(rule)?;
        self.gone(rule, &name, &version).await
    }

    /// The garbage-collection lock: whichever comes first wins, and the other one is told.
    async fn extend_and_remove_are_ordered(&self) -> Kept {
        let rule = "of an extension and a removal that race, exactly one happens";
        let until = self.in_future(SHORT).await?;
        let mut raced = Vec::new();
        for round in 0..ROUNDS {
            let name = self.name(&format!("race/{round}"));
            let version = self.put(rule, &name, "x", until).await?;
            raced.push((name, version));
        }
        self.pass(until).await?;
        let longer = self.in_future(HOUR).await?;
        // All races at once: a store may take a while to be sure of one.
        let races = raced.iter().enumerate().map(|(round, raced)| self.race(rule, round, raced, longer));
        join_all(races).await.into_iter().collect()
    }

    async fn race(
        &self,
        rule: &'static str,
        round: usize,
        (name, version): &(String, Version),
        longer: Timestamp,
    ) -> Kept {
        let (extend, remove) = (self.store.extend(name, version, longer), self.store.remove(name, version));
        // Which future is polled first decides little, but must not decide everything.
        let (extended, removed) = if round.is_multiple_of(2) {
            futures::join!(extend, remove)
        } else {
            let (removed, extended) = futures::join!(remove, extend);
            (extended, removed)
        };
        match (&extended, &removed) {
            (Ok(()), Err(StoreError::Locked { .. })) => self.locked(rule, name, version, longer).await,
            (Err(StoreError::NotFound { .. }), Ok(())) => self.gone(rule, name, version).await,
            _ => broken(rule, format!("{name}: extend gave {extended:?}, remove gave {removed:?}")),
        }
    }

    async fn a_name_is_won_once(&self, racers: &[Arc<dyn Store>]) -> Kept {
        let rule = "of puts that race for one name, one wins and the others are told, or every version stays readable";
        let until = self.in_future(HOUR).await?;
        for round in 0..ROUNDS / 4 {
            let name = self.name(&format!("won/{round}"));
            let puts = racers.iter().enumerate().map(|(racer, store)| {
                // Different lengths and locks: a mixture of two would show.
                let (text, until) =
                    ([b'0' + racer as u8].repeat(1000 + racer), until + SignedDuration::from_secs(racer as i64));
                let name = &name;
                async move { (text.clone(), until, store.put(name, text.into(), until).await) }
            });
            let outcomes = join_all(puts).await;
            let promised = self.store.promises().create_only;
            let winners: Vec<_> =
                outcomes.iter().filter_map(|(text, until, put)| Some((text, until, put.as_ref().ok()?))).collect();
            ensure(winners.len() == 1 || (!promised && winners.len() > 1), rule, || {
                format!("{name}: {} winners", winners.len())
            })?;
            for (_, _, put) in &outcomes {
                ensure(matches!(put, Ok(_) | Err(StoreError::Exists { .. })), rule, || {
                    format!("{name}: a put gave {put:?}")
                })?;
            }
            let listed = self.versions(rule, &name).await?;
            ensure(listed.len() == winners.len(), rule, || format!("{name}: {} versions are listed", listed.len()))?;
            for (text, until, version) in winners {
                let read = self.store.get(&name, Some(version), None).await.or_broken(rule)?;
                ensure(read == *text, rule, || format!("{name}: a winner's bytes are not what is read"))?;
                self.locked(rule, &name, version, *until).await?;
            }
        }
        Ok(())
    }

    async fn leave_one_behind(&self) -> Result<(String, Version), ContractBroken> {
        let rule = "what was put is there when the store is opened again";
        let name = self.name("again/a");
        let version = self.put(rule, &name, "still here", self.in_future(HOUR).await?).await?;
        self.store.hold(&name, &version, true).await.or_broken(rule)?;
        Ok((name, version))
    }

    async fn finds_it_again(&self, name: &str, version: &Version) -> Kept {
        let rule = "what was put is there when the store is opened again";
        let read = self.store.get(name, None, None).await.or_broken(rule)?;
        ensure(read == "still here", rule, || format!("{name} reads {read:?}"))?;
        let state = self.store.lock_state(name, version).await.or_broken(rule)?;
        let now = self.store.now().await.or_broken(rule)?;
        let kept = state.held && state.retained_until.is_some_and(|until| until > now);
        ensure(kept, rule, || format!("{name}: the lock is {state:?}"))?;
        let listed = self.versions(rule, name).await?;
        ensure(matches!(listed.as_slice(), [one] if one.version == *version), rule, || {
            format!("listed are {listed:?}")
        })?;
        self.store.hold(name, version, false).await.or_broken(rule)
    }

    /// Whole, locked until `until`, not removable.
    async fn locked(&self, rule: &'static str, name: &str, version: &Version, until: Timestamp) -> Kept {
        let state = self.store.lock_state(name, version).await.or_broken(rule)?;
        ensure(state.retained_until == Some(until), rule, || {
            format!("{name}: the lock is {state:?}, not until {until}")
        })?;
        let refused = self.store.remove(name, version).await;
        ensure(matches!(refused, Err(StoreError::Locked { .. })), rule, || format!("{name}: remove gave {refused:?}"))?;
        self.store.get(name, Some(version), None).await.or_broken(rule).map(drop)
    }

    async fn gone(&self, rule: &'static str, name: &str, version: &Version) -> Kept {
        let answers = [
            self.store.get(name, Some(version), None).await.err(),
            self.store.extend(name, version, self.in_future(HOUR).await?).await.err(),
            self.store.remove(name, version).await.err(),
        ];
        for error in answers {
            ensure(matches!(error, Some(StoreError::NotFound { .. })), rule, || {
                format!("{name} was removed, and {error:?}")
            })?;
        }
        ensure(self.versions(rule, name).await?.is_empty(), rule, || format!("{name} was removed and is listed"))
    }
}

fn broken<T>(rule: &'static str, detail: impl Into<String>) -> Result<T, ContractBroken> {
    Err(ContractBroken { rule, detail: detail.into() })
}

fn ensure(kept: bool, rule: &'static str, detail: impl FnOnce() -> String) -> Kept {
    if kept { Ok(()) } else { broken(rule, detail()) }
}

/// An error where the rule wants none.
trait OrBroken<T> {
    fn or_broken(self, rule: &'static str) -> Result<T, ContractBroken>;
}

impl<T, E: std::error::Error> OrBroken<T> for Result<T, E> {
    fn or_broken(self, rule: &'static str) -> Result<T, ContractBroken> {
        self.or_else(|error| broken(rule, crate::failure::chain(&error)))
    }
}
