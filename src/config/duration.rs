//! Durations as people write them: one number and one unit, `90s`, `12h`, `35d`, `7y`.
//!
//! Calendar-free on purpose: a day is 24 hours, a year 365 days, so that a lock's length does not depend on when it
//! was computed.

use jiff::SignedDuration;

/// Unit and its length in milliseconds, longest first.
const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads `35d`, `12h`, `5m`, `90s`, `250ms`, `2w` or `7y`; never negative, never more than 1000 years.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn duration(text: &str) -> Result<SignedDuration, String> {
    let wrong = || format!("'{text}' is not a duration; write a number and a unit, like 90s, 12h, 35d or 7y");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let (_, length) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let most = 1000 * 365 * 86_400_000;
    match number.checked_mul(*length) {
        Some(milliseconds) if milliseconds <= most => Ok(SignedDuration::from_millis(milliseconds)),
        _ => Err(format!("'{text}' is longer than 1000 years")),
    }
}

/// Writes a duration in the largest unit that gives a whole number: the inverse of [`duration`].
#[must_use]
pub fn written(duration: SignedDuration) -> String {
    let milliseconds = duration.as_millis();
    let fits = |(_, length): &&(&str, i64)| milliseconds % i128::from(*length) == 0 && milliseconds != 0;
    match UNITS.iter().find(fits) {
        Some((unit, length)) => format!("{}{unit}", milliseconds / i128::from(*length)),
        None => "0s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_is_read() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("12h", 43_200), ("35d", 3_024_000), ("2w", 1_209_600)] {
            assert_eq!(duration(text), Ok(SignedDuration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("7y"), Ok(SignedDuration::from_hours(7 * 365 * 24)));
        assert_eq!(duration("250ms"), Ok(SignedDuration::from_millis(250)));
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_an_example() {
        for text in ["", "35", "d", "35 d", "-1d", "+1d", "1.5h", "1h30m", "35D", "5min", "99999999999999999999d"] {
            let said = duration(text).unwrap_err();
            assert!(said.contains("35d"), "{text}: {said}");
        }
        assert!(duration("1001y").unwrap_err().contains("1000 years"));
        assert!(duration("9000000000000000000y").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(milliseconds in 0_i64..40_000_000_000) {
            let length = SignedDuration::from_millis(milliseconds);
            prop_assert_eq!(duration(&written(length)), Ok(length));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,12}") {
            let _ = duration(&text);
        }
    }
}
