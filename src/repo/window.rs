//! Which WAL there is, from the envelopes alone: windows without a gap, the gaps between them, and forks.
//!
//! Pure. Stretches and tails join where one begins exactly where another ends, both being cut at record boundaries. From each position the
//! way that reaches farthest is taken; a stretch is preferred to tails that reach as far, and of two that say the same the one that arrived
//! first. Two stretches of one history that overlap and do not say the same are a fork: shown, and refused until somebody chooses.
//!
//! A stretch covers whole tails. A tail that lies across the end of a stretch is none of a stream's: whoever stole a writer's key
//! could lay one over WAL that was there before he came, and lead every restore astray. It is passed over, and told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::envelope::{EnvelopeKind, Verified, Wal};
use crate::ids::Lsn;

/// WAL of one history without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub history: String,
    pub from: Lsn,
    pub to: Lsn,
    /// Which of the given envelopes make it up, in order.
    pub members: Vec<usize>,
}

/// WAL of one history that is not there, between two windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub history: String,
    pub from: Lsn,
    pub to: Lsn,
}

/// Two stretches that cannot both be true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    pub history: String,
    pub at: Lsn,
    /// Their names.
    pub names: [String; 2],
}

/// What [`chain`] finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    pub windows: Vec<Window>,
    pub gaps: Vec<Gap>,
    pub forks: Vec<Fork>,
    /// Tails that lie across the end of a stretch, and are passed over.
    pub across: Vec<usize>,
    /// Envelopes whose link is not the hash of any envelope given: one before them was taken away (or has lapsed).
    pub unlinked: Vec<usize>,
}

/// Orders stretch and tail envelopes, of any histories, into windows.
#[must_use]
pub fn chain(envelopes: &[Verified]) -> Chain {
    let mut histories: BTreeMap<(crate::ids::SystemId, &str), Vec<Piece<'_>>> = BTreeMap::new();
    for (index, envelope) in envelopes.iter().enumerate() {
        // What has no length says only that the server was quiet: it neither joins nor parts anything.
        if let Some(wal) = envelope.wal.as_ref().filter(|wal| wal.from < wal.to) {
            let piece = Piece { index, envelope, wal };
            histories.entry((wal.system_id, &wal.history)).or_default().push(piece);
        }
    }
    let mut chain = Chain::default();
    for ((_, history), mut pieces) in histories {
        pieces.sort_by_key(|piece| {
            (piece.wal.from, piece.wal.to, piece.is_tail(), piece.envelope.created, piece.envelope.name.clone())
        });
        chain.forks.extend(forks(history, &pieces));
        let stretches = stretches(&pieces);
        let (across, pieces): (Vec<_>, Vec<_>) =
            pieces.into_iter().partition(|piece| piece.is_tail() && lies_across(piece.wal, &stretches));
        chain.across.extend(across.into_iter().map(|piece| piece.index));
        join(history, &pieces, &mut chain);
    }
    let known: BTreeSet<_> = envelopes.iter().map(|envelope| envelope.digest).collect();
    let linked = |e: &Verified| e.previous.as_ref().is_none_or(|previous| known.contains(&previous.sha256));
    chain.unlinked = (0..envelopes.len()).filter(|at| envelopes.get(*at).is_some_and(|e| !linked(e))).collect();
    chain
}

#[derive(Clone, Copy)]
struct Piece<'a> {
    index: usize,
    envelope: &'a Verified,
    wal: &'a Wal,
}

impl Piece<'_> {
    fn is_tail(&self) -> bool {
        self.envelope.kind == EnvelopeKind::Tail
    }
}

fn forks(history: &str, pieces: &[Piece<'_>]) -> Vec<Fork> {
    let mut forks = Vec::new();
    let mut farthest: Option<Piece<'_>> = None;
    for piece in pieces.iter().filter(|piece| !piece.is_tail()) {
        if let Some(before) = farthest
            && piece.wal.from < before.wal.to
            && !piece.wal.same_stretch(before.wal)
        {
            let names = [before.envelope.name.clone(), piece.envelope.name.clone()];
            forks.push(Fork { history: history.to_owned(), at: piece.wal.from, names });
        }
        if farthest.is_none_or(|before| piece.wal.to >= before.wal.to) {
            farthest = Some(*piece);
        }
    }
    forks
}

fn join(history: &str, pieces: &[Piece<'_>], chain: &mut Chain) {
    // How far each position reaches, and through which piece; from the end, so that what follows is known. Of two that
    // reach equally far the stretch wins, then the longer piece.
    let mut reach: BTreeMap<Lsn, (Lsn, Piece<'_>)> = BTreeMap::new();
    for piece in pieces.iter().rev() {
        let to = reach.get(&piece.wal.to).map_or(piece.wal.to, |(to, _)| *to);
        let rank = |to: Lsn, piece: &Piece<'_>| (to, !piece.is_tail(), piece.wal.to);
        let known = reach.get(&piece.wal.from);
        if known.is_none_or(|(known_to, known)| rank(to, piece) >= rank(*known_to, known)) {
            reach.insert(piece.wal.from, (to, *piece));
        }
    }
    let mut covered: Option<Lsn> = None;
    for (from, (to, _)) in &reach {
        // A start inside what an earlier window covers adds something only when it reaches farther.
        if covered.is_some_and(|covered| *to <= covered) {
            continue;
        }
        if let Some(end) = covered.filter(|end| from > end) {
            chain.gaps.push(Gap { history: history.to_owned(), from: end, to: *from });
        }
        let (mut members, mut at) = (Vec::new(), *from);
        while let Some((_, piece)) = reach.get(&at) {
            members.push(piece.index);
            at = piece.wal.to;
        }
        chain.windows.push(Window { history: history.to_owned(), from: *from, to: at, members });
        covered = Some(*to);
    }
}

/// Where stretches begin, and how far each reaches.
fn stretches(pieces: &[Piece<'_>]) -> BTreeMap<Lsn, Lsn> {
    let mut stretches: BTreeMap<Lsn, Lsn> = BTreeMap::new();
    for piece in pieces.iter().filter(|piece| !piece.is_tail()) {
        let to = stretches.entry(piece.wal.from).or_insert(piece.wal.to);
        *to = (*to).max(piece.wal.to);
    }
    stretches
}

/// Whether a tail has the beginning of a stretch inside it, or the end of one that began before.
fn lies_across(tail: &Wal, stretches: &BTreeMap<Lsn, Lsn>) -> bool {
    let begins_inside = stretches.range((Bound::Excluded(tail.from), Bound::Excluded(tail.to))).next().is_some();
    let before = stretches.range(..=tail.from).next_back().map(|(_, to)| *to);
    begins_inside || before.is_some_and(|to| tail.from < to && to < tail.to)
}

#[cfg(test)]
mod tests {
    use super::super::envelope::{Envelope, FORMAT, Previous};
    use super::*;
    use crate::ids::{Digest, Scope, SystemId, Timeline};
    use jiff::Timestamp;
    use proptest::prelude::*;

    fn piece(tail: bool, from: u64, to: u64, commits: u64) -> Verified {
        let name = format!("{}/{from}-{to}-{commits}", if tail { "tail" } else { "stretch" });
        let wal = Wal {
            system_id: SystemId(1),
            timeline: Timeline(1),
            history: "1".into(),
            from: Lsn(from),
            to: Lsn(to),
            last_record: None,
            first_commit_time: None,
            last_commit_time: None,
            commits,
            server_clock: None,
            bindings: Vec::new(),
            quarantined: false,
            spans: Vec::new(),
        };
        let envelope = Envelope {
            format: FORMAT,
            kind: if tail { EnvelopeKind::Tail } else { EnvelopeKind::Stretch },
            name: name.clone(),
            scope: Scope::Cluster("main".into()),
            epoch: 1,
            source: "main".into(),
            time: Timestamp::UNIX_EPOCH,
            writer: "w".into(),
            previous: None,
            locked_until: Timestamp::UNIX_EPOCH,
            objects: Vec::new(),
            wal: Some(wal),
            facts: serde_json::Value::Null,
            extra: BTreeMap::new(),
        };
        let digest = Digest::of(name.as_bytes());
        Verified { envelope, digest, bytes: 1, signer: "w".into(), created: Timestamp::UNIX_EPOCH }
    }

    fn ranges(chain: &Chain) -> Vec<(u64, u64)> {
        chain.windows.iter().map(|w| (w.from.0, w.to.0)).collect()
    }

    #[test]
    fn stretches_that_meet_are_one_window_and_a_hole_is_a_gap_with_its_range() {
        let chain = chain(&[piece(false, 30, 40, 0), piece(false, 0, 10, 0), piece(false, 10, 20, 0)]);
        assert_eq!(ranges(&chain), [(0, 20), (30, 40)]);
        assert_eq!(chain.windows[0].members, [1, 2]);
        assert_eq!(chain.gaps, [Gap { history: "1".into(), from: Lsn(20), to: Lsn(30) }]);
        assert!(chain.forks.is_empty());
    }

    #[test]
    fn tails_fill_in_where_there_is_no_stretch() {
        let pieces = [
            piece(false, 0, 20, 0),
            piece(true, 0, 5, 0),
            piece(true, 5, 20, 0),
            piece(true, 20, 25, 0),
            piece(true, 25, 30, 0),
            piece(false, 30, 40, 0),
        ];
        let chain = chain(&pieces);
        assert_eq!(ranges(&chain), [(0, 40)]);
        assert_eq!(chain.windows[0].members, [0, 3, 4, 5]);
    }

    #[test]
    fn a_tail_that_leads_nowhere_is_not_followed() {
        let pieces = [piece(true, 0, 15, 0), piece(true, 0, 10, 0), piece(false, 10, 40, 0)];
        let chain = chain(&pieces);
        assert_eq!(ranges(&chain), [(0, 40)]);
        assert_eq!(chain.windows[0].members, [1, 2]);
    }

    #[test]
    fn a_tail_laid_over_older_wal_leads_no_restore_astray() {
        let good = [piece(false, 0, 20, 0), piece(true, 0, 5, 0), piece(false, 20, 30, 0)];
        for from in [0, 1, 5, 20] {
            let pieces: Vec<_> = good.iter().cloned().chain([piece(true, from, 900, 0)]).collect();
            let chain = chain(&pieces);
            assert_eq!((ranges(&chain), &*chain.across), (vec![(0, 30)], &[3][..]), "from {from}");
            assert_eq!(chain.windows[0].members, [0, 2], "from {from}");
        }
        // Behind the last stretch there is nothing yet that it could contradict.
        let pieces: Vec<_> = good.iter().cloned().chain([piece(true, 30, 35, 0)]).collect();
        assert_eq!(chain(&pieces).windows[0].members, [0, 2, 3]);
    }

    #[test]
    fn of_two_that_say_the_same_the_one_that_arrived_first_is_taken_whatever_its_name() {
        let (first, mut second) = (piece(false, 0, 10, 3), piece(false, 0, 10, 3));
        second.envelope.name = "a".into();
        second.created = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(1);
        assert_eq!(chain(&[second, first]).windows[0].members, [1]);
    }

    #[test]
    fn two_stretches_that_differ_over_the_same_wal_are_a_fork_and_a_repetition_is_not() {
        let same = chain(&[piece(false, 0, 10, 3), piece(false, 0, 10, 3), piece(false, 10, 20, 0)]);
        assert!(same.forks.is_empty());
        assert_eq!(ranges(&same), [(0, 20)]);
        let other = chain(&[piece(false, 0, 10, 3), piece(false, 0, 10, 4)]);
        assert_eq!(other.forks.len(), 1);
        let overlap = chain(&[piece(false, 0, 10, 3), piece(false, 5, 20, 4)]);
        assert_eq!(overlap.forks[0].at, Lsn(5));
    }

    #[test]
    fn an_envelope_whose_predecessor_was_taken_away_is_shown() {
        let (first, mut second) = (piece(false, 0, 10, 0), piece(false, 10, 20, 0));
        second.envelope.previous = Some(Previous { name: first.name.clone(), sha256: first.digest });
        assert!(chain(&[first, second.clone()]).unlinked.is_empty());
        assert_eq!(chain(&[second]).unlinked, [0]);
    }

    proptest! {
        #[test]
        fn windows_are_gapless_and_lose_nothing_that_could_be_reached(
            ranges in proptest::collection::vec((0..30_u64, 1..6_u64, any::<bool>()), 0..20)
        ) {
            let pieces: Vec<_> = ranges.iter().map(|(from, length, tail)| piece(*tail, *from, from + length, 0)).collect();
            let chain = chain(&pieces);
            for window in &chain.windows {
                let mut at = window.from;
                for member in &window.members {
                    let wal = pieces[*member].wal.as_ref().unwrap();
                    prop_assert_eq!(wal.from, at);
                    at = wal.to;
                }
                prop_assert_eq!(at, window.to);
            }
            for gap in &chain.gaps {
                let across = |tail: &Verified| {
                    let stretches = pieces.iter().filter(|piece| piece.kind == EnvelopeKind::Stretch);
                    let stretches = stretches.map(|piece| { let wal = piece.wal.as_ref().unwrap(); (wal.from, wal.to) });
                    tail.kind == EnvelopeKind::Tail && stretches.into_iter().any(|(from, to)| {
                        let wal = tail.wal.as_ref().unwrap();
                        from < wal.to && wal.from < to && !(from <= wal.from && wal.to <= to)
                    })
                };
                let wals = pieces.iter().filter(|piece| !across(piece)).filter_map(|piece| piece.wal.as_ref());
                prop_assert_eq!(wals.filter(|wal| wal.to > gap.from && wal.from < gap.to).count(), 0);
            }
        }
    }
}
