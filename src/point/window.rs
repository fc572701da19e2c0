//! What can be restored: windows of WAL that begin at a recovery point. Pure.
//!
//! A **run** is WAL without a gap on one history; a **window** is the part of a run that some base backup reaches: from the
//! stop LSN of the run's first usable point to the run's end. A target inside a window can be restored, one outside cannot,
//! and nothing else decides it.

use jiff::Timestamp;

use crate::ids::{Lsn, SystemId, Timeline};

/// What a point's envelope says in clear: positions and times, nothing of the content.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PointFacts {
    pub cluster: String,
    pub system_id: SystemId,
    pub timeline: Timeline,
    /// `server_version_num`, e.g. 150018, and `wal_segment_size`: what reading the WAL needs to know.
    pub server_version: u32,
    pub segment_bytes: u32,
    /// The timeline with its history, as WAL names carry it.
    pub history: String,
    /// Names the base backup; every set of it carries the same label.
    pub label: String,
    /// Where replay begins, and where the base backup became consistent.
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    /// The server's clock just after `stop_lsn`.
    pub stop_time: Timestamp,
    /// Where files and access were captured; the drill's own target.
    pub lsn: Lsn,
    pub time: Timestamp,
    pub class: String,
    /// Whether the base backup was taken of all the cluster's tenants: only such a one brings the whole cluster back.
    pub whole: bool,
}

/// A stretch (or tail) of stored WAL, as far as positions and times go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub from: Lsn,
    pub to: Lsn,
    /// The greatest commit time in it.
    pub greatest_commit: Option<Timestamp>,
    /// The server's clock when it was received.
    pub server_clock: Timestamp,
}

/// WAL without a gap on one history: pieces in order, each beginning where the last one ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub system_id: SystemId,
    pub history: String,
    pub pieces: Vec<Piece>,
}

impl Run {
    #[must_use]
    pub fn from(&self) -> Lsn {
        self.pieces.first().map_or(Lsn(0), |piece| piece.from)
    }

    #[must_use]
    pub fn to(&self) -> Lsn {
        self.pieces.last().map_or(Lsn(0), |piece| piece.to)
    }

    /// The latest server clock that the run has seen.
    #[must_use]
    pub fn clock(&self) -> Option<Timestamp> {
        self.pieces.iter().map(|piece| piece.server_clock).max()
    }

    fn carries(&self, point: &PointFacts) -> bool {
        self.system_id == point.system_id
            && self.history == point.history
            && self.from() <= point.start_lsn
            && point.stop_lsn <= self.to()
    }
}

/// One end of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Edge {
    pub time: Timestamp,
    pub lsn: Lsn,
}

/// A stretch of time and WAL to any place of which a restore can go.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Window {
    pub from: Edge,
    pub to: Edge,
    #[serde(skip)]
    pub run: usize,
}

/// The windows that `points` open in `runs`, oldest first.
#[must_use]
pub fn windows(points: &[PointFacts], runs: &[Run]) -> Vec<Window> {
    let mut found: Vec<Window> = runs
        .iter()
        .enumerate()
        .filter_map(|(index, run)| {
            let first = points.iter().filter(|point| run.carries(point)).min_by_key(|point| point.stop_lsn)?;
            let from = Edge { time: first.stop_time, lsn: first.stop_lsn };
            let to = Edge { time: run.clock().unwrap_or(first.stop_time).max(first.stop_time), lsn: run.to() };
            Some(Window { from, to, run: index })
        })
        .collect();
    found.sort_by_key(|window| (window.from.time, window.from.lsn));
    found
}

/// The point to start from for a target at `lsn` in `run`: the newest that was consistent by then.
#[must_use]
pub fn base_for<'a>(points: &'a [PointFacts], run: &Run, lsn: Lsn) -> Option<&'a PointFacts> {
    points
        .iter()
        .filter(|point| run.carries(point) && point.stop_lsn <= lsn)
        .max_by_key(|point| (point.stop_lsn, point.lsn))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number of seconds is a timestamp")
    }

    pub fn point(start: u64, stop: u64, second: i64) -> PointFacts {
        PointFacts {
            cluster: "main".into(),
            system_id: SystemId(7),
            timeline: Timeline(1),
            server_version: 150_018,
            segment_bytes: 16 << 20,
            history: "1".into(),
            label: format!("b{stop}"),
            start_lsn: Lsn(start),
            stop_lsn: Lsn(stop),
            stop_time: at(second),
            lsn: Lsn(stop + 1),
            time: at(second + 1),
            class: "daily".into(),
            whole: true,
        }
    }

    pub fn run(pieces: &[(u64, u64, Option<i64>, i64)]) -> Run {
        let pieces = pieces
            .iter()
            .map(|(from, to, commit, clock)| Piece {
                from: Lsn(*from),
                to: Lsn(*to),
                greatest_commit: commit.map(at),
                server_clock: at(*clock),
            })
            .collect();
        Run { system_id: SystemId(7), history: "1".into(), pieces }
    }

    #[test]
    fn a_window_begins_where_the_first_base_backup_became_consistent() {
        let runs = [run(&[(0, 100, Some(10), 11), (100, 300, Some(20), 25)])];
        let points = [point(150, 200, 18), point(50, 90, 9)];
        let found = windows(&points, &runs);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].from.lsn, found[0].to.lsn), (Lsn(90), Lsn(300)));
        assert_eq!((found[0].from.time, found[0].to.time), (at(9), at(25)));
    }

    #[test]
    fn wal_without_a_point_and_a_point_without_wal_open_no_window() {
        let runs = [run(&[(100, 300, None, 25)])];
        assert!(windows(&[], &runs).is_empty());
        assert!(windows(&[point(50, 200, 9)], &runs).is_empty(), "replay would begin before the run");
        assert!(windows(&[point(150, 301, 9)], &runs).is_empty(), "not consistent within the run");
    }

    #[test]
    fn a_gap_makes_two_windows() {
        let runs = [run(&[(0, 100, None, 10)]), run(&[(120, 300, None, 30)])];
        let found = windows(&[point(10, 20, 5), point(130, 140, 25)], &runs);
        assert_eq!(found.iter().map(|window| window.to.lsn).collect::<Vec<_>>(), [Lsn(100), Lsn(300)]);
    }

    #[test]
    fn the_newest_point_that_was_consistent_by_then_is_the_base() {
        let whole = run(&[(0, 300, None, 30)]);
        let points = [point(10, 20, 5), point(130, 140, 25)];
        assert_eq!(base_for(&points, &whole, Lsn(139)).map(|p| p.stop_lsn), Some(Lsn(20)));
        assert_eq!(base_for(&points, &whole, Lsn(140)).map(|p| p.stop_lsn), Some(Lsn(140)));
        assert_eq!(base_for(&points, &whole, Lsn(19)), None);
    }
}
