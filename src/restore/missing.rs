//! When what was stored is not there, or is not believed: which object, and what a restore may still do. Pure.
//!
//! A window that ends because an envelope is damaged must not pass for one that ends because nothing came after it: what is asked for
//! beyond it is damage (`Integrity`, the object named), not a wrong question. What a restore does not need is only told.

use jiff::Timestamp;

use crate::config::When;
use crate::failure::{Failure, Kind, chain};
use crate::ids::Lsn;
use crate::point::stored::{Hidden, Stored};
use crate::point::{PointFacts, Window};
use crate::repo::name::Name;
use crate::watch::{Finding, Level};

/// Refuses what lies behind WAL that is damaged or was taken away.
///
/// # Errors
/// `Integrity`, naming the envelope.
pub fn refuse_hidden(stored: &Stored, asked: &When, windows: &[Window]) -> Result<(), Failure> {
    let Some(end) = end_before(asked, windows) else { return Ok(()) };
    let mut behind: Vec<&Hidden> = stored.hidden.iter().filter(|hidden| hidden.to > end).collect();
    behind.sort_by_key(|hidden| hidden.from);
    match behind.first() {
        None => Ok(()),
        Some(hidden) => Err(Failure::new(
            Kind::Integrity,
            hidden.name.clone(),
            format!("{}; it held the WAL from {} to {}", hidden.why, hidden.from, hidden.to),
            format!("look for it in the second copy, or restore what is before it: `--at {end}`"),
        )),
    }
}

/// Where the window ends behind which the target was looked for.
fn end_before(asked: &When, windows: &[Window]) -> Option<Lsn> {
    let before = |window: &&Window| match asked {
        When::Lsn(lsn) => window.from.lsn <= *lsn,
        When::Time(time) => window.from.time <= *time,
        When::Latest | When::Name(_) => true,
    };
    windows.iter().filter(before).max_by_key(|window| (window.to.time, window.to.lsn)).map(|window| window.to.lsn)
}

/// Why there is no window at all.
#[must_use]
pub fn nothing_there(subject: &str, stored: &Stored) -> Failure {
    let second_copy = "restore from the second copy, or check the signers file";
    if let Some(point) = stored.points.last() {
        let (start, stop) = (point.facts.start_lsn, point.facts.stop_lsn);
        let needed = format!("needs the WAL from {start} to {stop}");
        let hidden = stored.hidden.iter().find(|hidden| hidden.to > start && hidden.from < stop);
        return match hidden {
            Some(Hidden { name, why, .. }) => {
                let cause = format!("{why}; {} {needed}", point.envelope.name);
                Failure::new(Kind::Integrity, name.clone(), cause, second_copy)
            }
            None => {
                let cause = format!("{needed}, which is not in the store");
                Failure::new(Kind::Integrity, point.envelope.name.clone(), cause, second_copy)
            }
        };
    }
    if let Some((name, error)) = stored.bad.first() {
        let cause = format!("no usable recovery point; {name} is not believed: {}", chain(error));
        return Failure::new(Kind::Integrity, subject, cause, second_copy);
    }
    if let Some(name) = stored.lost_points.first() {
        let cause = "its signature is there and it is not: its backup was killed, or it was taken away";
        let next = "run `lifeboat backup`, or look for it in the second copy";
        return Failure::new(Kind::Integrity, name.clone(), cause, next);
    }
    Failure::new(
        Kind::Usage,
        subject,
        "has no recovery point in the store",
        "run `lifeboat backup` (with `lifeboat stream` beside it), or check the configured store",
    )
}

/// What is wrong beside a restore that can be done.
#[must_use]
pub fn findings(stored: &Stored, asked: &When, base: &PointFacts) -> Vec<Finding> {
    let warning = |object: &str, what: String, next: &str| Finding {
        level: Level::Warning,
        object: object.to_owned(),
        what,
        next: next.to_owned(),
    };
    let mut list: Vec<Finding> = stored
        .bad
        .iter()
        .map(|(name, error)| {
            let said = chain(error);
            let said = said.strip_prefix(&format!("{name}: ")).unwrap_or(&said).to_owned();
            warning(name, format!("is not believed and was not used: {said}"), "find out what happened to it")
        })
        .collect();
    if *asked == When::Latest {
        list.extend(stored.unfinished.iter().map(|lost| {
            let what =
                format!("{}: its stream was killed, or it was taken away; the restore ends at {}", lost.why, lost.from);
            warning(&lost.name, what, "look for it in the second copy, if the stream had acknowledged it")
        }));
    }
    list.extend(lost_points(stored, asked, base).map(|name| {
        let what = format!(
            "was signed and is not there: its backup was killed, or it was taken away; used was {}",
            base.label
        );
        warning(name, what, "look for it in the second copy; `lifeboat verify` says what else is missing")
    }));
    let gap = stored.gaps.iter().rfind(|gap| gap.history == base.history && gap.from > base.start_lsn);
    if let (When::Latest, Some(gap)) = (asked, gap) {
        let what =
            format!("is missing from {} to {}: newer WAL is there and no base backup reaches it", gap.from, gap.to);
        list.push(warning("WAL", what, "take a base backup: `lifeboat backup`"));
    }
    list
}

/// Points that a restore might have begun from, had they been there.
fn lost_points<'a>(stored: &'a Stored, asked: &When, base: &PointFacts) -> impl Iterator<Item = &'a str> {
    let (after, until) = match asked {
        When::Latest => (base.time, Timestamp::MAX),
        When::Time(time) => (base.time, *time),
        When::Lsn(_) | When::Name(_) => (Timestamp::MAX, Timestamp::MAX),
    };
    let time = |name: &str| match name.parse() {
        Ok(Name::Point(point, _)) => point.stamp.time(),
        _ => None,
    };
    let lost = stored.lost_points.iter().map(String::as_str);
    lost.filter(move |name| time(name).is_some_and(|time| time > after && time <= until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::point::window::Edge;

    fn window(from: u64, to: u64) -> Window {
        let edge = |lsn: u64| Edge { time: Timestamp::from_second(1000 + lsn as i64).expect("a time"), lsn: Lsn(lsn) };
        Window { from: edge(from), to: edge(to), run: 0 }
    }

    fn hiding(from: u64, to: u64) -> Stored {
        let hidden = Hidden { name: "wal/x".into(), from: Lsn(from), to: Lsn(to), why: "is damaged".into() };
        Stored { hidden: vec![hidden], ..Stored::default() }
    }

    #[test]
    fn damage_behind_the_last_window_is_named_and_says_what_can_be_had() {
        let failure = refuse_hidden(&hiding(100, 200), &When::Latest, &[window(10, 100)]).expect_err("refused");
        assert_eq!((failure.kind, &*failure.object), (Kind::Integrity, "wal/x"));
        assert!(failure.next.contains("--at 0/64"), "{}", failure.next);
        assert!(refuse_hidden(&hiding(100, 200), &When::Lsn(Lsn(150)), &[window(10, 100)]).is_err());
    }

    #[test]
    fn damage_before_a_newer_window_and_questions_before_the_first_are_not_refused() {
        let windows = [window(10, 100), window(300, 400)];
        assert!(refuse_hidden(&hiding(100, 200), &When::Latest, &windows).is_ok());
        assert!(refuse_hidden(&hiding(100, 200), &When::Lsn(Lsn(150)), &windows).is_err());
        assert!(refuse_hidden(&hiding(100, 200), &When::Lsn(Lsn(5)), &windows).is_ok());
    }

    #[test]
    fn a_store_without_points_is_no_damage_and_one_whose_only_point_was_taken_away_is() {
        assert_eq!(nothing_there("tenant acme", &Stored::default()).kind, Kind::Usage);
        let taken = Stored { lost_points: vec!["tenant/acme/points/x".into()], ..Stored::default() };
        let failure = nothing_there("tenant acme", &taken);
        assert_eq!((failure.kind, &*failure.object), (Kind::Integrity, "tenant/acme/points/x"));
    }
}
