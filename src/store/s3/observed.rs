//! What every answer of the server tells besides what was asked: whether it is too busy, and what time it is there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use jiff::{SignedDuration, Timestamp};

use super::gate::Gate;

/// How long the time of an answer is carried on with the machine's own steady clock.
const FRESH: Duration = Duration::from_secs(60);

/// The server's time, as of its last answer. `Date` has whole seconds and is cut off, so what is told is never ahead.
#[derive(Debug, Default)]
pub(super) struct Observed(Mutex<Option<(Timestamp, Instant)>>);

impl Observed {
    /// The server's time; `None` when no answer is fresh enough.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let (time, at) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = at.elapsed();
        (since < FRESH).then(|| time.checked_add(SignedDuration::try_from(since).ok()?).ok()).flatten()
    }

    fn note(&self, time: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    }
}

/// Looks at every answer, those that the SDK repeats included.
#[derive(Debug)]
pub(super) struct Observer {
    pub(super) gate: Arc<Gate>,
    pub(super) observed: Arc<Observed>,
}

impl Intercept for Observer {
    fn name(&self) -> &'static str {
        "lifeboat's observer"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(response) = context.response() else { return Ok(()) };
        match response.status().as_u16() {
            // S3 says SlowDown with 503 (S3 User Guide, "Best practices design patterns"); others say 429.
            429 | 503 => self.gate.throttled(),
            _ => self.gate.answered(),
        }
        let date = response.headers().get("date").and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        if let Some(date) = date {
            self.observed.note(date.timestamp());
        }
        Ok(())
    }
}
