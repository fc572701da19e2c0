//! `[retention]`: how long recovery points are kept. Windows of time, never counts: forged points must not push good
//! ones out. Everything may be as short as seconds, for tests.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::item::{Item, plain_name};
use super::nearest::hint;
use super::table::Table;
use crate::failure::{Failure, Kind};

#[derive(Debug, Clone)]
pub struct Retention {
    /// How long a point of each class (`backup --class`) is kept.
    pub classes: BTreeMap<String, SignedDuration>,
    /// How far back every second can be reached.
    pub pitr: SignedDuration,
    /// Added to every lock, for clocks and slow runs.
    pub slack: SignedDuration,
    /// How long a WAL tail is locked before its stretch takes its place.
    pub tail_lock: SignedDuration,
    /// Packs older than this are written anew rather than reused.
    pub rebase: SignedDuration,
}

impl Retention {
    /// How long points of `class` are kept.
    ///
    /// # Errors
    /// When no such class is configured.
    pub fn class(&self, class: &str) -> Result<SignedDuration, Failure> {
        self.classes.get(class).copied().ok_or_else(|| {
            let cause = format!("there is no such class{}", hint(class, self.classes.keys().map(String::as_str)));
            Failure::new(Kind::Usage, class, cause, "name a class of [retention.classes]")
        })
    }

    /// The longest that anything can be locked, from when it was stored: a stretch at the end of its window that the point of the
    /// longest class then needs, and the slack of the point, of what it names, and of the clocks.
    #[must_use]
    pub fn longest(&self) -> SignedDuration {
        let class = self.classes.values().max().copied().unwrap_or_default();
        [self.pitr, self.slack, self.slack, self.slack].iter().fold(class, |sum, more| sum.saturating_add(*more))
    }
}

const DAY: i64 = 86_400;

pub(super) fn retention(table: Table<'_>) -> Retention {
    let days = |days: i64| SignedDuration::from_secs(days * DAY);
    let mut classes: BTreeMap<String, SignedDuration> =
        [("daily", 35), ("weekly", 91), ("monthly", 400), ("yearly", 7 * 365)]
            .map(|(name, length)| (name.to_owned(), days(length)))
            .into();
    for (name, item) in table.named("classes") {
        if let Err(what) = plain_name(&name) {
            item.report(what);
        }
        if let Some(length) = item.read(Item::some_duration) {
            classes.insert(name, length);
        }
    }
    let retention = Retention {
        classes,
        pitr: table.take("pitr", Item::some_duration).unwrap_or(days(35)),
        slack: table.take("slack", Item::duration).unwrap_or(days(1)),
        tail_lock: table.take("tail_lock", Item::some_duration).unwrap_or(days(7)),
        rebase: table.take("rebase", Item::some_duration).unwrap_or(days(35)),
    };
    let longest = retention.classes.values().max().copied().unwrap_or_default();
    if retention.pitr > longest {
        table.report("pitr", "is longer than every class keeps the base backups that it starts from");
    }
    table.finish();
    retention
}
