//! A moment to go back to, as people say it: a time, an LSN, the name of a restore point, or `latest`.
//!
//! A time without an offset is taken in the estate's zone and said back with its offset, because the person who typed
//! it at night must see what was understood. A local time that happens twice or never is refused, not guessed.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::failure::{Failure, Kind};
use crate::ids::Lsn;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Everything committed up to and including this time.
    Time(Timestamp),
    Lsn(Lsn),
    /// A restore point.
    Name(String),
    /// As far as the store goes.
    Latest,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    #[error("'{text}' is not a time; write it like 2026-11-21T14:05:00+01:00")]
    NotATime { text: String },
    #[error("'{text}' is a day without a time of day")]
    NoTimeOfDay { text: String },
    #[error("'{text}' happens twice, or never, in {zone}, where the clocks change")]
    Ambiguous { text: String, zone: String },
    #[error("'{text}' is not an LSN like 16/B374D848")]
    NotAnLsn { text: String },
    #[error("'{text}' is neither a time, an LSN, the name of a restore point nor 'latest'")]
    Nothing { text: String },
}

impl From<WhenError> for Failure {
    fn from(error: WhenError) -> Self {
        let next = match &error {
            WhenError::Ambiguous { .. } => "give the time with its offset, like 2026-10-25T02:30:00+02:00",
            _ => "see what can be restored with `lifeboat points`",
        };
        Self::new(Kind::Usage, "the moment asked for", error.to_string(), next)
    }
}

impl When {
    /// Reads what was typed; a time without an offset is one in `zone`.
    ///
    /// # Errors
    /// When it is nothing of the kind, or a local time that `zone` does not have exactly once.
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self, WhenError> {
        let text = text.trim();
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if begins_with_a_day(text) {
            return time(text, zone).map(Self::Time);
        }
        if text.contains('/') {
            return text.parse().map(Self::Lsn).map_err(|_| WhenError::NotAnLsn { text: text.to_owned() });
        }
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        if !text.is_empty() && text.len() <= 128 && !text.starts_with('-') && text.bytes().all(fine) {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(WhenError::Nothing { text: text.to_owned() })
    }

    /// What was understood, for people: times with the offset that `zone` has then.
    #[must_use]
    pub fn understood(&self, zone: &TimeZone) -> String {
        match self {
            Self::Time(time) => in_zone(*time, zone),
            Self::Lsn(lsn) => lsn.to_string(),
            Self::Name(name) => name.clone(),
            Self::Latest => "latest".to_owned(),
        }
    }
}

/// A time as RFC 3339 with the offset that `zone` has then: `2026-11-21T14:05:00+01:00`.
#[must_use]
pub fn in_zone(time: Timestamp, zone: &TimeZone) -> String {
    time.display_with_offset(zone.to_offset(time)).to_string()
}

/// `2026-11-21...`: from here on it is a time or a mistake, never a name.
fn begins_with_a_day(text: &str) -> bool {
    let mut shape = text.bytes();
    b"dddd-dd-dd".iter().all(|wanted| match (wanted, shape.next()) {
        (b'd', Some(found)) => found.is_ascii_digit(),
        (wanted, found) => found == Some(*wanted),
    })
}

fn time(text: &str, zone: &TimeZone) -> Result<Timestamp, WhenError> {
    if text.len() == 10 {
        return Err(WhenError::NoTimeOfDay { text: text.to_owned() });
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let local: DateTime = text.parse().map_err(|_| WhenError::NotATime { text: text.to_owned() })?;
    zone.to_ambiguous_timestamp(local).unambiguous().map_err(|_| WhenError::Ambiguous {
        text: text.to_owned(),
        zone: zone.iana_name().unwrap_or("the estate's time zone").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    fn at(text: &str) -> Result<When, WhenError> {
        When::parse(text, &berlin())
    }

    #[test]
    fn a_time_with_an_offset_is_that_instant() {
        let expected: Timestamp = "2026-11-21T13:05:00Z".parse().unwrap();
        for text in ["2026-11-21T14:05+01:00", "2026-11-21T14:05:00+01:00", "2026-11-21 13:05:00Z"] {
            assert_eq!(at(text), Ok(When::Time(expected)), "{text}");
        }
    }

    #[test]
    fn a_time_without_an_offset_is_one_in_the_estates_zone_and_is_said_back_with_it() {
        let winter = at("2026-11-21T14:05").unwrap();
        assert_eq!(winter.understood(&berlin()), "2026-11-21T14:05:00+01:00");
        let summer = at("2026-07-21 14:05:09.5").unwrap();
        assert_eq!(summer.understood(&berlin()), "2026-07-21T14:05:09.5+02:00");
    }

    #[test]
    fn a_local_time_that_happens_twice_or_never_is_refused() {
        for text in ["2026-10-25T02:30", "2026-03-29T02:30"] {
            assert!(matches!(at(text), Err(WhenError::Ambiguous { .. })), "{text}");
        }
        assert!(at("2026-10-25T02:30+02:00").is_ok());
    }

    #[test]
    fn what_begins_like_a_day_is_a_time_or_a_mistake() {
        assert!(matches!(at("2026-11-21"), Err(WhenError::NoTimeOfDay { .. })));
        for text in ["2026-13-45T00:00", "2026-11-21T25:00", "2026-11-21-before", "2026-11-21T14:05+1:0x"] {
            assert!(matches!(at(text), Err(WhenError::NotATime { .. })), "{text}");
        }
    }

    #[test]
    fn lsns_names_and_latest_are_told_apart() {
        assert_eq!(at("latest"), Ok(When::Latest));
        assert_eq!(at("16/B374D848"), Ok(When::Lsn(Lsn(0x16_B374_D848))));
        assert!(matches!(at("16/XYZ"), Err(WhenError::NotAnLsn { .. })));
        assert_eq!(at("20261122T072400Z-1a2b3c4d"), Ok(When::Name("20261122T072400Z-1a2b3c4d".into())));
        assert_eq!(at("before-upgrade"), Ok(When::Name("before-upgrade".into())));
        for text in ["", "  ", "-x", "a b", "\u{1b}[2J"] {
            assert!(matches!(at(text), Err(WhenError::Nothing { .. })), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = at(&text);
        }

        #[test]
        fn what_is_said_back_is_the_same_instant(seconds in 0_i64..200_000_000_000) {
            let when = When::Time(Timestamp::from_second(seconds).unwrap());
            prop_assert_eq!(at(&when.understood(&berlin())), Ok(when));
        }
    }
}
