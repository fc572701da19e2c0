//! Two rosters of one layer compared, in both directions: what was lost, gained, weakened, revived, changed.
//!
//! A pure function. `before` is what should be, `after` what is: the roster of the backup and the one of the restored database,
//! or yesterday's and today's. When `after` describes an **earlier** state than `before` (`as_of`), a secret that differs is an old
//! one that works again: `Stale`. Otherwise somebody renewed it: `Changed`.
//!
//! Rules: an archived person and an expired key can do nothing, so what differs about them is `Changed` at most. What a
//! person may do are his effective groups. Losing a second factor is a `Downgrade`, not a loss. Losses of (a, b) are the
//! gains of (b, a). No verdict here, and no severity: whether a difference was approved is decided elsewhere.

mod people;
mod policies;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::AccessError;
use super::roster::{FORMAT, Roster};

/// What kind of difference; in the order of what to look at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Somebody can do more than before.
    Gain,
    /// A secret that was replaced works again.
    Stale,
    /// The same can be reached by weaker authentication.
    Downgrade,
    /// Somebody can do less than before.
    Loss,
    /// Something differs and gives or takes nothing by itself, or it cannot be said what.
    Changed,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    pub class: Class,
    /// A person's login, or `everyone`, a group, a policy.
    pub who: String,
    /// What differs: `group base.group_system`, `API key 'scanner'`, `record rule '…'`.
    pub what: String,
    /// The whole as one sentence.
    pub detail: String,
}

/// What `after` has, lacks, weakens or revives against `before`; sorted, and empty for equal rosters.
///
/// # Errors
/// When the two are of different layers, different keys, or of a format that this program does not know.
pub fn compare(before: &Roster, after: &Roster) -> Result<Vec<Difference>, AccessError> {
    if before.layer != after.layer {
        return Err(AccessError::OtherLayer { before: before.layer.clone(), after: after.layer.clone() });
    }
    if let Some(roster) = [before, after].into_iter().find(|roster| roster.format > FORMAT) {
        return Err(AccessError::OtherFormat(roster.format));
    }
    if before.key_check != after.key_check {
        return Err(AccessError::OtherKey);
    }
    let mut list = List {
        differences: Vec::new(),
        backwards: after.as_of < before.as_of,
        now: before.captured_at.max(after.captured_at),
    };
    people::compare(&mut list, &before.people, &after.people);
    policies::groups(&mut list, &before.groups, &after.groups);
    policies::compare(&mut list, &before.policies, &after.policies);
    list.differences.sort();
    Ok(list.differences)
}

/// The differences found, and what decides their class.
struct List {
    differences: Vec<Difference>,
    backwards: bool,
    now: Timestamp,
}

impl List {
    fn add(&mut self, class: Class, who: &str, what: impl Into<String>, detail: impl Into<String>) {
        self.differences.push(Difference { class, who: who.to_owned(), what: what.into(), detail: detail.into() });
    }

    /// The class of a secret that differs.
    fn replaced(&self) -> Class {
        if self.backwards { Class::Stale } else { Class::Changed }
    }

    /// How a sentence says that a secret differs.
    fn replaced_words(&self) -> &'static str {
        if self.backwards { "is an earlier one, which works again" } else { "was replaced" }
    }
}

/// `x, y and z`.
fn enumerate<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    let items: Vec<&str> = items.into_iter().map(String::as_str).collect();
    match items.split_last() {
        None => "nothing".to_owned(),
        Some((one, [])) => (*one).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests;
