//! What time it is, as a value that tests can set.
//!
//! Everything that stamps, locks or compares times is handed a [`Clock`]; nothing else asks the system
//! (`clippy.toml` refuses it). Where the store's own time matters, the store is asked (`store::Store::now`).

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

/// A source of the current time. Cheap to clone; clones agree.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System,
    Set(Arc<Mutex<Timestamp>>),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Kind::System)
    }

    /// A clock that stands at `time` until [`Clock::advance`] moves it.
    #[must_use]
    pub fn set_to(time: Timestamp) -> Self {
        Self(Kind::Set(Arc::new(Mutex::new(time))))
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            #[allow(clippy::disallowed_methods)] // the one place that may ask
            Kind::System => Timestamp::now(),
            Kind::Set(time) => *time.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Moves a set clock on (or back); the machine's clock is left alone.
    pub fn advance(&self, by: SignedDuration) {
        if let Kind::Set(time) = &self.0 {
            let mut time = time.lock().unwrap_or_else(PoisonError::into_inner);
            *time = time.checked_add(by).unwrap_or(*time);
        }
    }
}
