//! When a stretch of WAL is cut, and when what has arrived goes out as a tail: pure policy.
//!
//! A **stretch** is the lasting form: large, few requests. A **tail** makes what arrived since the last stretch durable
//! within the recovery-point objective; the next stretch covers it again. Nothing is acknowledged before one of the two
//! is stored.

use std::time::Duration;

/// The thresholds of one cluster, from its configuration.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// A stretch is cut when this many bytes of complete records wait, or when its first byte is this old.
    pub stretch_bytes: u64,
    pub stretch_age: Duration,
    /// What waits longer than this goes out as a tail.
    pub flush_age: Duration,
    /// More than this many bytes that are not durable yet go out at once.
    pub flush_bytes: u64,
}

/// What lies between the last stretch and the end of the complete records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes of complete records since the last stretch, and since the last durable position.
    pub stretch_bytes: u64,
    pub unflushed_bytes: u64,
    /// What the server has already and we have not yet.
    pub coming_bytes: u64,
    /// Age of the first byte of each.
    pub stretch_age: Duration,
    pub unflushed_age: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Stretch,
    Tail,
    Nothing,
}

/// What to do now.
#[must_use]
pub fn decide(waiting: &Waiting, thresholds: &Thresholds) -> Cut {
    if waiting.stretch_bytes == 0 {
        return Cut::Nothing;
    }
    if waiting.stretch_bytes >= thresholds.stretch_bytes || waiting.stretch_age >= thresholds.stretch_age {
        return Cut::Stretch;
    }
    // While a backlog comes in, the stretch fills within moments: a tail would only seal and store the same bytes twice.
    let fills_at_once = waiting.stretch_bytes.saturating_add(waiting.coming_bytes) >= thresholds.stretch_bytes;
    let much = waiting.unflushed_bytes >= thresholds.flush_bytes && !fills_at_once;
    let due = waiting.unflushed_age >= thresholds.flush_age || much;
    if waiting.unflushed_bytes > 0 && due { Cut::Tail } else { Cut::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Thresholds = Thresholds {
        stretch_bytes: 1000,
        stretch_age: Duration::from_secs(300),
        flush_age: Duration::from_secs(1),
        flush_bytes: 500,
    };

    fn waiting(stretch_bytes: u64, unflushed_bytes: u64, unflushed_ms: u64) -> Waiting {
        Waiting {
            stretch_bytes,
            unflushed_bytes,
            coming_bytes: 0,
            stretch_age: Duration::from_secs(2),
            unflushed_age: Duration::from_millis(unflushed_ms),
        }
    }

    #[test]
    fn nothing_new_writes_nothing() {
        assert_eq!(decide(&waiting(0, 0, 99_999), &RULES), Cut::Nothing);
        assert_eq!(decide(&waiting(400, 0, 99_999), &RULES), Cut::Nothing);
    }

    #[test]
    fn a_full_stretch_needs_no_tail() {
        assert_eq!(decide(&waiting(1000, 1000, 5000), &RULES), Cut::Stretch);
    }

    #[test]
    fn what_waits_too_long_or_is_too_much_goes_out_as_a_tail() {
        assert_eq!(decide(&waiting(100, 100, 999), &RULES), Cut::Nothing);
        assert_eq!(decide(&waiting(100, 100, 1000), &RULES), Cut::Tail);
        assert_eq!(decide(&waiting(600, 500, 1), &RULES), Cut::Tail);
    }

    #[test]
    fn a_backlog_goes_into_stretches_and_into_a_tail_only_when_it_comes_slowly() {
        let behind = |unflushed_ms| Waiting { coming_bytes: 400, ..waiting(600, 500, unflushed_ms) };
        assert_eq!(decide(&behind(1), &RULES), Cut::Nothing);
        assert_eq!(decide(&behind(1000), &RULES), Cut::Tail);
    }

    #[test]
    fn a_quiet_server_still_gets_its_stretches() {
        let old = Waiting { stretch_age: Duration::from_secs(300), ..waiting(10, 0, 0) };
        assert_eq!(decide(&old, &RULES), Cut::Stretch);
    }
}
