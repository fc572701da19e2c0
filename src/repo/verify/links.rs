//! Level 0, the envelopes among themselves: chains, forks, windows of WAL, and what was there before.
//!
//! Pure. An envelope names the one before it in its folder by hash. When that one is not there, it has lapsed, or it was taken away; the
//! two are told apart by the shortest lock that it can have had. For sets and points its name says when it was begun; for WAL the
//! question is whether anything is lost: a link whose range other envelopes cover hides nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::finding::{Finding, What};
use crate::failure::chain as told;
use crate::ids::{Digest, Lsn};
use crate::repo::envelope::{EnvelopeKind, Verified};
use crate::repo::error::RepoError;
use crate::repo::name::{Name, StretchName};
use crate::repo::window;

/// The shortest time that anything of a kind is locked: what is not there after it has lapsed, and may have gone.
#[derive(Debug, Clone, Copy)]
pub struct Shortest {
    pub point: SignedDuration,
    pub stretch: SignedDuration,
    pub tail: SignedDuration,
}

/// An envelope that the caller remembers having seen in this store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    pub sha256: Digest,
    pub locked_until: Timestamp,
}

/// What the judgement is made of.
pub struct Links<'a> {
    /// Every believed envelope, lapsed ones included.
    pub good: Vec<&'a Verified>,
    pub bad: &'a [(String, RepoError)],
    pub lost: &'a [String],
    pub seen: &'a [Seen],
    pub now: Timestamp,
    pub shortest: Shortest,
}

/// Locks end a little before the shortest time is over, counted from a name: a run takes hours, clocks differ.
const TOLERANCE: SignedDuration = SignedDuration::from_hours(6);

/// What is suspected, with the name to look at once more: it may have gone, or come, while the listing ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspicion {
    /// Gone now: the finding does not stand.
    pub about: String,
    /// There now: the finding does not stand.
    pub absent: Option<String>,
    pub finding: Finding,
}

impl Links<'_> {
    /// Everything that is wrong.
    #[must_use]
    pub fn judge(&self) -> Vec<Suspicion> {
        let mut found: Vec<Suspicion> = Vec::new();
        found.extend(self.bad.iter().map(|(name, error)| {
            let why = told(error);
            let why = why.strip_prefix(&format!("{name}: ")).unwrap_or(&why).to_owned();
            Suspicion { about: name.clone(), absent: None, finding: Finding::new(What::NotBelieved, name, why) }
        }));
        let remembered = self.taken_away();
        let said: BTreeSet<&str> = remembered.iter().map(|s| s.finding.object.as_str()).collect();
        found
            .extend(self.broken_links().into_iter().filter(|s| !s.absent.as_deref().is_some_and(|n| said.contains(n))));
        found.extend(self.unfinished(&said));
        found.extend(remembered);
        found.extend(self.forked_chains());
        found.extend(self.points());
        found.extend(self.wal());
        found
    }

    fn is_bad(&self, name: &str) -> bool {
        self.bad.iter().any(|(bad, _)| bad == name)
    }

    /// Seen before, and not there although its lock runs: no need of any chain to tell.
    fn taken_away(&self) -> Vec<Suspicion> {
        let here: BTreeSet<(&str, Digest)> = self.good.iter().map(|e| (e.name.as_str(), e.digest)).collect();
        let gone = |seen: &&Seen| {
            seen.locked_until > self.now
                && !here.contains(&(seen.name.as_str(), seen.sha256))
                && !self.is_bad(&seen.name)
        };
        let found = self.seen.iter().filter(gone).map(|seen| {
            let detail = format!("this machine read it before, and its lock runs until {}", seen.locked_until);
            let finding = Finding::new(What::TakenAway, &seen.name, detail);
            Suspicion { about: String::new(), absent: Some(seen.name.clone()), finding }
        });
        found.collect()
    }

    fn broken_links(&self) -> Vec<Suspicion> {
        let known: BTreeSet<Digest> = self.good.iter().map(|envelope| envelope.digest).collect();
        let covered = self.covered();
        let mut found = Vec::new();
        for envelope in &self.good {
            let Some(previous) = envelope.previous.as_ref().filter(|previous| !known.contains(&previous.sha256)) else {
                continue;
            };
            if self.is_bad(&previous.name) || !self.must_be_there(&previous.name, envelope, &covered) {
                continue;
            }
            let detail = format!("{} is not there", previous.name);
            let finding = Finding::new(What::BrokenLink, &envelope.name, detail);
            found.push(Suspicion { about: envelope.name.clone(), absent: Some(previous.name.clone()), finding });
        }
        found
    }

    /// Whether the envelope `name`, which `next` follows, cannot have lapsed, and is missed.
    fn must_be_there(&self, name: &str, next: &Verified, covered: &[(String, Lsn, Lsn)]) -> bool {
        let runs = |begun: Timestamp, shortest: SignedDuration| {
            let sure = shortest.saturating_sub((shortest / 20).min(TOLERANCE));
            begun.checked_add(sure).is_ok_and(|end| end > self.now)
        };
        match name.parse() {
            Ok(Name::Set(set, _)) => runs(set.stamp.time().unwrap_or(next.time), self.shortest.point),
            Ok(Name::Point(point, _)) => runs(point.stamp.time().unwrap_or(next.time), self.shortest.point),
            // Its name does not say when. It came before the next; what no other envelope covers is missed.
            Ok(Name::Stretch(stretch, _)) => {
                let shortest = if stretch.tail { self.shortest.tail } else { self.shortest.stretch };
                let history = key(&stretch);
                let inside =
                    |(h, from, to): &(String, Lsn, Lsn)| *h == history && *from <= stretch.from && stretch.to <= *to;
                runs(next.time, shortest) && !covered.iter().any(inside)
            }
            _ => true,
        }
    }

    /// Every gapless window: history, from, to.
    fn covered(&self) -> Vec<(String, Lsn, Lsn)> {
        let mut covered = Vec::new();
        for (system, wal) in self.systems() {
            let chain = window::chain(&wal);
            covered.extend(chain.windows.into_iter().map(|w| (format!("{system}/{}", w.history), w.from, w.to)));
        }
        covered
    }

    fn systems(&self) -> BTreeMap<String, Vec<Verified>> {
        let mut systems: BTreeMap<String, Vec<Verified>> = BTreeMap::new();
        for envelope in &self.good {
            if let Some(wal) = envelope.wal.as_ref().filter(|wal| wal.from < wal.to) {
                systems.entry(wal.system_id.to_string()).or_default().push((*envelope).clone());
            }
        }
        systems
    }

    fn unfinished(&self, said: &BTreeSet<&str>) -> Vec<Suspicion> {
        let linked: BTreeSet<&str> =
            self.good.iter().filter_map(|e| e.previous.as_ref()).map(|previous| previous.name.as_str()).collect();
        let covered = self.covered();
        let harmless = |name: &str| match name.parse() {
            Ok(Name::Stretch(stretch, _)) => {
                let history = key(&stretch);
                covered.iter().any(|(h, from, to)| *h == history && *from <= stretch.from && stretch.to <= *to)
            }
            _ => false,
        };
        let lost = self.lost.iter().filter(|name| !said.contains(name.as_str()) && !linked.contains(name.as_str()));
        let found = lost.filter(|name| !harmless(name)).map(|name| Suspicion {
            about: crate::repo::name::signature(name),
            absent: Some(name.clone()),
            finding: Finding::new(What::Unfinished, name, "only its signature is there"),
        });
        found.collect()
    }

    fn forked_chains(&self) -> Vec<Suspicion> {
        let mut followers: BTreeMap<(&str, Digest), Vec<&Verified>> = BTreeMap::new();
        for envelope in &self.good {
            if let Some(previous) = &envelope.previous {
                followers.entry((envelope.signer.as_str(), previous.sha256)).or_default().push(envelope);
            }
        }
        let forks = followers.into_values().filter(|followers| followers.len() > 1);
        let found = forks.filter_map(|followers| {
            let names: Vec<&str> = followers.iter().map(|envelope| envelope.name.as_str()).collect();
            let (first, others) = names.split_first()?;
            let detail = format!("so is {}", others.join(", "));
            let finding = Finding::new(What::ForkedChain, *first, detail);
            Some(Suspicion { about: (*first).to_owned(), absent: None, finding })
        });
        found.collect()
    }

    /// The envelopes that a point names are those that are believed.
    fn points(&self) -> Vec<Suspicion> {
        let mut by_name: BTreeMap<&str, Vec<Digest>> = BTreeMap::new();
        for envelope in &self.good {
            by_name.entry(envelope.name.as_str()).or_default().push(envelope.digest);
        }
        let mut found = Vec::new();
        let live = self.good.iter().filter(|e| e.kind == EnvelopeKind::Point && e.envelope.locked_until > self.now);
        for point in live {
            for object in point.objects.iter().filter(|object| object.name.ends_with(".envelope.json")) {
                if by_name.get(object.name.as_str()).is_some_and(|digests| !digests.contains(&object.sha256)) {
                    let detail = format!("the one that {} names has the SHA-256 {}", point.name, object.sha256);
                    let finding = Finding::new(What::Altered, &object.name, detail);
                    found.push(Suspicion { about: object.name.clone(), absent: None, finding });
                }
            }
        }
        found
    }

    fn wal(&self) -> Vec<Suspicion> {
        let mut found = Vec::new();
        for (system, wal) in self.systems() {
            let chain = window::chain(&wal);
            for fork in chain.forks {
                let [first, second] = fork.names;
                let finding = Finding::new(What::ForkedWal, &first, format!("so does {second}, from {} on", fork.at));
                found.push(Suspicion { about: first, absent: None, finding });
            }
            for tail in chain.across.iter().filter_map(|at| wal.get(*at)) {
                let detail = "it lies across the end of a stretch, and is passed over".to_owned();
                let finding = Finding::new(What::ForkedWal, &tail.name, detail);
                found.push(Suspicion { about: tail.name.clone(), absent: None, finding });
            }
            for gap in chain.gaps {
                let after = chain.windows.iter().find(|w| w.history == gap.history && w.from == gap.to);
                let next = after.and_then(|w| w.members.first()).and_then(|index| wal.get(*index));
                // Base backups keep old WAL longer than the window: what lay between has lapsed.
                let lapsed = next.is_some_and(|next| !self.young(next.time));
                if lapsed {
                    continue;
                }
                let detail = format!("none from {} to {}", gap.from, gap.to);
                let finding = Finding::new(What::Gap, format!("wal/{system}/{}", gap.history), detail);
                found.push(Suspicion { about: String::new(), absent: None, finding });
            }
        }
        found
    }

    fn young(&self, time: Timestamp) -> bool {
        let shortest = self.shortest.stretch;
        time.checked_add(shortest.saturating_sub((shortest / 20).min(TOLERANCE * 4))).is_ok_and(|end| end > self.now)
    }
}

fn key(stretch: &StretchName) -> String {
    format!("{}/{}", stretch.system_id, stretch.history)
}
