//! What the store holds of a tenant's points and of a cluster's WAL, put together from signed envelopes. No key is used.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::window::{self, Piece, PointFacts, Run, Window};
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, Scope, SystemId};
use crate::repo::envelope::Verified;
use crate::repo::error::RepoError;
use crate::repo::name::Name;
use crate::repo::reader::{Reader, What};
use crate::repo::window::{Fork, Gap, chain};

/// A point as its envelope shows it.
#[derive(Debug, Clone)]
pub struct StoredPoint {
    pub scope: Scope,
    pub facts: PointFacts,
    pub envelope: Verified,
}

/// A run with the envelopes that make it up, in order.
#[derive(Debug, Clone)]
pub struct StoredRun {
    pub run: Run,
    pub envelopes: Vec<Verified>,
}

/// Everything that decides what can be restored.
#[derive(Debug, Default)]
pub struct Stored {
    /// Oldest first.
    pub points: Vec<StoredPoint>,
    pub runs: Vec<StoredRun>,
    pub gaps: Vec<Gap>,
    pub forks: Vec<Fork>,
    /// What lies where envelopes lie and was not believed.
    pub bad: Vec<(String, RepoError)>,
    /// Names at which a point was signed and is not: its backup was killed as it committed, or it was taken away.
    pub lost_points: Vec<String>,
    /// WAL that was stored and cannot be used.
    pub hidden: Vec<Hidden>,
    /// The same at the very end, where a killed stream leaves just that: perhaps it was never committed.
    pub unfinished: Vec<Hidden>,
}

/// WAL that some envelope spoke of which is damaged, or was taken away: why a window ends where it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    pub name: String,
    pub from: Lsn,
    pub to: Lsn,
    pub why: String,
}

impl Stored {
    /// Reads the points of `scopes` and the WAL they belong to.
    ///
    /// # Errors
    /// The store's. A bad envelope is listed, not fatal.
    pub async fn read(reader: &Reader, scopes: &[Scope]) -> Result<Self, Failure> {
        let mut stored = Self::default();
        for scope in scopes {
            let listing = reader.envelopes(scope, What::Points).await?;
            stored.bad.extend(listing.bad);
            stored.lost_points.extend(listing.lost);
            for envelope in listing.good {
                match serde_json::from_value::<PointFacts>(envelope.facts.clone()) {
                    Ok(facts) => stored.points.push(StoredPoint { scope: scope.clone(), facts, envelope }),
                    Err(error) => {
                        let what = error.to_string();
                        stored.bad.push((
                            envelope.name.clone(),
                            RepoError::Body { name: envelope.name.clone(), line: 1, what },
                        ));
                    }
                }
            }
        }
        stored.points.sort_by_key(|point| (point.facts.lsn, point.facts.time));
        let systems: BTreeSet<SystemId> = stored.points.iter().map(|point| point.facts.system_id).collect();
        for system_id in systems {
            stored.read_wal(reader, system_id).await?;
        }
        Ok(stored)
    }

    async fn read_wal(&mut self, reader: &Reader, system_id: SystemId) -> Result<(), Failure> {
        let listing = reader.stretches(system_id, None).await?;
        let mut hidden: Vec<Hidden> =
            listing.bad.iter().filter_map(|(name, error)| hidden(name, crate::failure::chain(error))).collect();
        let gone = "its signature is there and it is not".to_owned();
        let lost = listing.lost.iter().filter_map(|name| self::hidden(name, gone.clone()));
        self.bad.extend(listing.bad);
        let (wal, heartbeats): (Vec<_>, Vec<_>) =
            listing.good.into_iter().partition(|envelope| !is_heartbeat(envelope));
        let found = chain(&wal);
        for window in &found.windows {
            let envelopes: Vec<Verified> = window.members.iter().filter_map(|index| wal.get(*index)).cloned().collect();
            let mut pieces: Vec<Piece> = envelopes.iter().filter_map(piece_of).collect();
            let clock = heartbeats.iter().filter_map(|beat| beat.wal.as_ref()).filter(|wal| wal.to == window.to);
            if let (Some(last), Some(clock)) = (pieces.last_mut(), clock.filter_map(|wal| wal.server_clock).max()) {
                last.server_clock = last.server_clock.max(clock);
            }
            self.runs.push(StoredRun { run: Run { system_id, history: window.history.clone(), pieces }, envelopes });
        }
        let now = reader.store.now().await?;
        let unlinked = found.unlinked.iter().filter_map(|index| wal.get(*index));
        for envelope in unlinked.filter(|envelope| !may_have_lapsed_before(envelope, now)) {
            let why = format!("{} follows it, and it is not there", envelope.name);
            hidden.extend(envelope.previous.iter().filter_map(|previous| self::hidden(&previous.name, why.clone())));
        }
        // A stream that goes on after a kill covers what it had begun to commit, so where WAL follows, it was taken away.
        let (lost, unfinished): (Vec<_>, Vec<_>) =
            lost.partition(|lost| found.windows.iter().any(|w| w.from > lost.from));
        hidden.extend(lost);
        // What other envelopes cover, tails for one, is hidden from nobody.
        let covered = |hidden: &Hidden| found.windows.iter().any(|w| w.from <= hidden.from && hidden.to <= w.to);
        hidden.retain(|hidden| !covered(hidden));
        self.unfinished.extend(unfinished.into_iter().filter(|lost| !covered(lost)));
        self.hidden.extend(hidden);
        self.gaps.extend(found.gaps);
        self.forks.extend(found.forks);
        Ok(())
    }

    /// The facts of all points, for the pure functions.
    #[must_use]
    pub fn facts(&self) -> Vec<PointFacts> {
        self.points.iter().map(|point| point.facts.clone()).collect()
    }

    #[must_use]
    pub fn plain_runs(&self) -> Vec<Run> {
        self.runs.iter().map(|run| run.run.clone()).collect()
    }

    #[must_use]
    pub fn windows(&self) -> Vec<Window> {
        window::windows(&self.facts(), &self.plain_runs())
    }

    /// Refuses to go on where two writers have told different stories.
    ///
    /// # Errors
    /// The first fork, with both names.
    pub fn refuse_forks(&self) -> Result<(), Failure> {
        match self.forks.first() {
            None => Ok(()),
            Some(fork) => Err(Failure::new(
                Kind::Integrity,
                fork.names.join(" and "),
                format!("two stretches tell different WAL from {} on", fork.at),
                "find out which writer was right, end the other's line in the signers file before that time (valid-before), then restore",
            )),
        }
    }
}

/// The WAL that a name speaks of; `None` for a heartbeat, and for what is no name of WAL.
fn hidden(name: &str, why: String) -> Option<Hidden> {
    match name.parse() {
        Ok(Name::Stretch(stretch, _)) if stretch.from < stretch.to => {
            // Told after the name anyway.
            let why = why.strip_prefix(&format!("{name}: ")).map_or(why.clone(), str::to_owned);
            Some(Hidden { name: name.to_owned(), from: stretch.from, to: stretch.to, why })
        }
        _ => None,
    }
}

/// An envelope that carries no WAL, only the word that up to here the server was quiet.
#[must_use]
pub fn is_heartbeat(envelope: &Verified) -> bool {
    envelope.wal.as_ref().is_some_and(|wal| wal.from == wal.to)
}

/// Whether what came before this envelope in its chain may simply have reached its end: it was locked for as long, from a little
/// earlier on. A day, or a tenth of a short lock, is how much earlier that may be.
fn may_have_lapsed_before(envelope: &Verified, now: Timestamp) -> bool {
    let lasts = envelope.locked_until.duration_since(envelope.time);
    let earlier = (lasts / 10).min(SignedDuration::from_hours(24));
    envelope.locked_until.duration_since(now) <= earlier
}

fn piece_of(envelope: &Verified) -> Option<Piece> {
    let wal = envelope.wal.as_ref()?;
    Some(Piece {
        from: wal.from,
        to: wal.to,
        greatest_commit: wal.last_commit_time,
        server_clock: wal.server_clock.unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

/// Where the newest WAL of a history ends; 0 when there is none.
///
/// # Errors
/// The store's.
pub async fn wal_end(reader: &Reader, system_id: SystemId, history: &str) -> Result<Lsn, Failure> {
    Ok(reader
        .newest_wal(system_id, history)
        .await?
        .and_then(|newest| newest.wal.as_ref().map(|wal| wal.to))
        .unwrap_or_default())
}

/// The envelopes of the run that covers `[from, to]`, as far as they touch it.
///
/// # Errors
/// The store's, or `Integrity` when the WAL has a gap there: with the exact range.
pub async fn covering(
    reader: &Reader,
    system_id: SystemId,
    history: &str,
    from: Lsn,
    to: Lsn,
) -> Result<Vec<Verified>, Failure> {
    let listing = reader.stretches(system_id, Some(history)).await?;
    let wal: Vec<Verified> = listing.good.into_iter().filter(|envelope| !is_heartbeat(envelope)).collect();
    let found = chain(&wal);
    let Some(window) = found.windows.iter().find(|window| window.from <= from && to <= window.to) else {
        let reaches = found.windows.iter().filter(|window| window.from <= from).map(|window| window.to).max();
        let cause = match reaches {
            Some(end) => format!("has a gap: it is whole up to {end}, and needed up to {to}"),
            None => format!("does not begin before {from}"),
        };
        return Err(Failure::new(
            Kind::Integrity,
            format!("WAL of system {system_id}"),
            cause,
            "run `lifeboat stream`, then take a new base backup: `lifeboat backup`",
        ));
    };
    Ok(window
        .members
        .iter()
        .filter_map(|index| wal.get(*index))
        .filter(|envelope| touches(envelope, from, to))
        .cloned()
        .collect())
}

/// Whether an envelope's WAL touches `[from, to]`.
#[must_use]
pub fn touches(envelope: &Verified, from: Lsn, to: Lsn) -> bool {
    envelope.wal.as_ref().is_some_and(|wal| wal.from <= to && from < wal.to.plus(1))
}
