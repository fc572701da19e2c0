//! From what was asked (`--at`) to the LSN that recovery runs to. Pure; reading commits is the caller's.
//!
//! **A time means** the LSN just before the first commit later than it. If there is none, the time is covered when an
//! envelope records a server clock at or after it, and then means the end of the run. Everything else is outside every
//! window: exit code 2, with the windows that exist.

use jiff::Timestamp;

use super::window::{Run, Window};
use crate::config::when::When;
use crate::ids::Lsn;

/// Where to go, or what must be read to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Recover to this LSN of this run.
    At { run: usize, lsn: Lsn },
    /// Read the commits of the run's pieces from `piece` on: the target is the start of the first one later than `time` that
    /// begins at or after `not_before`.
    FirstCommitAfter { run: usize, piece: usize, time: Timestamp, not_before: Lsn },
    /// Read the restore points of every window: the target is the end of the record with this name.
    Named { name: String },
    /// No window holds it.
    Outside,
}

/// Decides; `windows` are those of [`super::window::windows`] over `runs`.
#[must_use]
pub fn resolve(when: &When, windows: &[Window], runs: &[Run]) -> Target {
    match when {
        When::Latest => windows
            .iter()
            .max_by_key(|window| (window.to.time, window.to.lsn))
            .map_or(Target::Outside, |window| Target::At { run: window.run, lsn: window.to.lsn }),
        When::Lsn(lsn) => windows
            .iter()
            .rev()
            .find(|window| (window.from.lsn..=window.to.lsn).contains(lsn))
            .map_or(Target::Outside, |window| Target::At { run: window.run, lsn: *lsn }),
        When::Name(name) => Target::Named { name: name.clone() },
        When::Time(time) => windows
            .iter()
            .rev()
            .find(|window| window.from.time <= *time)
            .and_then(|window| at_time(*time, window, runs.get(window.run)?))
            .unwrap_or(Target::Outside),
    }
}

fn at_time(time: Timestamp, window: &Window, run: &Run) -> Option<Target> {
    let later = run
        .pieces
        .iter()
        .position(|piece| piece.to > window.from.lsn && piece.greatest_commit.is_some_and(|commit| commit > time));
    match later {
        Some(piece) => Some(Target::FirstCommitAfter { run: window.run, piece, time, not_before: window.from.lsn }),
        None => (window.to.time >= time).then_some(Target::At { run: window.run, lsn: window.to.lsn }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::{tests::*, windows};
    use super::*;

    fn one_run() -> (Vec<Run>, Vec<Window>) {
        let runs = vec![run(&[(0, 100, Some(10), 11), (100, 200, Some(20), 21), (200, 300, None, 40)])];
        let found = windows(&[point(5, 50, 6)], &runs);
        (runs, found)
    }

    #[test]
    fn a_time_means_just_before_the_first_later_commit() {
        let (runs, windows) = one_run();
        let asked = resolve(&When::Time(at(12)), &windows, &runs);
        assert_eq!(asked, Target::FirstCommitAfter { run: 0, piece: 1, time: at(12), not_before: Lsn(50) });
    }

    #[test]
    fn a_time_after_the_last_commit_is_covered_by_the_servers_clock_alone() {
        let (runs, windows) = one_run();
        assert_eq!(resolve(&When::Time(at(40)), &windows, &runs), Target::At { run: 0, lsn: Lsn(300) });
        assert_eq!(resolve(&When::Time(at(41)), &windows, &runs), Target::Outside);
    }

    #[test]
    fn a_time_before_the_first_point_is_outside() {
        let (runs, windows) = one_run();
        assert_eq!(resolve(&When::Time(at(5)), &windows, &runs), Target::Outside);
    }

    #[test]
    fn an_lsn_must_lie_in_a_window() {
        let (runs, windows) = one_run();
        assert_eq!(resolve(&When::Lsn(Lsn(49)), &windows, &runs), Target::Outside);
        assert_eq!(resolve(&When::Lsn(Lsn(50)), &windows, &runs), Target::At { run: 0, lsn: Lsn(50) });
        assert_eq!(resolve(&When::Lsn(Lsn(301)), &windows, &runs), Target::Outside);
    }

    #[test]
    fn a_time_inside_a_gap_is_outside() {
        let runs = vec![run(&[(0, 100, Some(10), 11)]), run(&[(120, 300, Some(30), 31)])];
        let windows = windows(&[point(5, 50, 6), point(130, 140, 25)], &runs);
        assert_eq!(resolve(&When::Time(at(20)), &windows, &runs), Target::Outside);
        assert_eq!(resolve(&When::Latest, &windows, &runs), Target::At { run: 1, lsn: Lsn(300) });
    }
}
