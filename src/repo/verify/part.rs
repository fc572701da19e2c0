//! Which objects one run reads: all of them, one part of many, or those whose turn it is.
//!
//! Pure. A part is chosen by the SHA-256 of an object's name, so that every object is in exactly one of the `m` parts whatever else is
//! in the store, and whoever verifies with another credential or on another machine chooses the same. The parts are of equal size
//! only on average. What was read when is the caller's memory, which may be lost: then a turn begins with any.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::ids::Digest;

/// What one run reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    #[default]
    All,
    /// The `number`th of `of` parts, from 1.
    Nth { number: u32, of: u32 },
    /// One `of`th of the bytes: those not read for longest.
    Next { of: u32 },
}

/// A text that names no part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no part: write n/m with 1 <= n <= m, or next/m")]
pub struct PartError {
    text: String,
}

/// The most parts: beyond it a run would read next to nothing.
const MOST: u32 = 100_000;

impl FromStr for Part {
    type Err = PartError;
    fn from_str(text: &str) -> Result<Self, PartError> {
        let wrong = || PartError { text: text.to_owned() };
        let (number, of) = text.split_once('/').ok_or_else(wrong)?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let of: u32 = digits(of).filter(|of| (1..=MOST).contains(of)).ok_or_else(wrong)?;
        if number == "next" {
            return Ok(Self::Next { of });
        }
        let number = digits(number).filter(|number| (1..=of).contains(number)).ok_or_else(wrong)?;
        Ok(Self::Nth { number, of })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Nth { number, of } => write!(f, "part {number}/{of}"),
            Self::Next { of } => write!(f, "part next/{of}"),
        }
    }
}

/// The number, from 1, of the part of `of` that an object of this name is in.
#[must_use]
pub fn part_of(name: &str, of: u32) -> u32 {
    let [a, b, c, d, e, f, g, h, ..] = Digest::of(name.as_bytes()).0;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]) % u64::from(of.max(1))) as u32 + 1
}

/// When each object was last found right, by name.
pub type LastRead = HashMap<String, Timestamp>;

/// The names to read, out of `objects` (names with bytes, each once): of `part`, and not found right at or after `not_since`.
#[must_use]
pub fn choose(part: Part, objects: &[(&str, u64)], last: &LastRead, not_since: Option<Timestamp>) -> Vec<String> {
    let when = |name: &str| last.get(name).copied();
    let due = |name: &str| not_since.is_none_or(|since| when(name).is_none_or(|read| read < since));
    let mut due: Vec<&(&str, u64)> = objects.iter().filter(|(name, _)| due(name)).collect();
    match part {
        Part::All => {}
        Part::Nth { number, of } => due.retain(|(name, _)| part_of(name, of) == number),
        Part::Next { of } => {
            // Those never read come first (`None` is the least), then by age; the hash spreads what was read at once.
            due.sort_by_key(|(name, _)| (when(name), Digest::of(name.as_bytes())));
            let total: u64 = objects.iter().map(|(_, bytes)| bytes).sum();
            let (share, mut taken) = (total.div_ceil(u64::from(of.max(1))), 0);
            // At least as many objects as makes the round: many empty ones must not be put off for ever.
            let least = objects.len().div_ceil(of.max(1) as usize);
            let enough = due.iter().position(|(_, bytes)| {
                let had = taken;
                taken += bytes;
                had >= share
            });
            due.truncate(enough.unwrap_or(due.len()).max(least));
        }
    }
    due.into_iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn at(hours: i64) -> Timestamp {
        "2026-11-22T07:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_hours(hours)
    }

    #[test]
    fn parts_are_written_n_of_m() {
        assert_eq!("3/30".parse(), Ok(Part::Nth { number: 3, of: 30 }));
        assert_eq!("next/30".parse(), Ok(Part::Next { of: 30 }));
        for wrong in ["0/3", "4/3", "1/0", "", "1", "1/", "/3", "-1/3", "+1/3", "1/3/5", "next", "1/4294967296"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_found_right_lately_is_left_out() {
        let objects = [("a", 1), ("b", 1), ("c", 1)];
        let last = LastRead::from([("a".to_owned(), at(0)), ("b".to_owned(), at(5))]);
        assert_eq!(choose(Part::All, &objects, &last, Some(at(3))), ["a", "c"]);
    }

    proptest! {
        #[test]
        fn every_object_is_in_exactly_one_part(names in proptest::collection::btree_set("[a-z/]{1,20}", 0..50), of in 1_u32..40) {
            let objects: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
            let parts: Vec<String> = (1..=of)
                .flat_map(|number| choose(Part::Nth { number, of }, &objects, &LastRead::new(), None))
                .collect();
            prop_assert_eq!(parts.len(), names.len());
            prop_assert_eq!(parts.into_iter().collect::<BTreeSet<_>>(), names);
        }

        #[test]
        fn a_round_of_turns_reads_everything(
            sizes in proptest::collection::vec(0_u64..100, 0..60), of in 1_u32..10,
        ) {
            let names: Vec<String> = (0..sizes.len()).map(|n| format!("o{n}")).collect();
            let objects: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(sizes).collect();
            let mut last = LastRead::new();
            for turn in 0..of {
                for name in choose(Part::Next { of }, &objects, &last, None) {
                    last.insert(name, at(i64::from(turn)));
                }
            }
            prop_assert_eq!(last.len(), objects.len());
        }
    }
}
