//! One request: in its turn, within its time, again when the server was too busy or its answer broke off.
//!
//! The SDK repeats a request that failed before its answer began (standard retries, full jitter). What it does not
//! repeat, a body that breaks off, or gives up on, a server that throttles for long, is repeated here.

use std::time::Duration;

use jiff::Timestamp;

use super::S3Store;
use super::error::Trouble;
use crate::store::StoreError;

/// How often a request is repeated here, after the SDK's own attempts.
const ROUNDS: u32 = 3;

/// The slowest line that an upload is waited for on, beyond which it counts as stalled.
const SLOWEST_BYTES_PER_SECOND: u64 = 128 << 10;

impl S3Store {
    /// Runs `ask` in its turn, and again while there is hope.
    pub(super) async fn request<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let mut round = 0;
        loop {
            let turn = self.gate.enter().await;
            let trouble = match Box::pin(ask()).await {
                Err(trouble) if round < ROUNDS && trouble.is_throttle() => trouble,
                done => return done,
            };
            drop(turn); // others may go while this one waits
            tracing::debug!(round, ?trouble, "asking the store again");
            tokio::time::sleep(jittered(Duration::from_secs(1) * 2u32.pow(round))).await;
            round += 1;
        }
    }

    /// What bounds one attempt that sends `bytes`.
    pub(super) fn within(&self, bytes: u64) -> aws_sdk_s3::config::Builder {
        let limit = self.options.patience + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        let timeouts = aws_sdk_s3::config::timeout::TimeoutConfig::builder().operation_attempt_timeout(limit).build();
        aws_sdk_s3::config::Config::builder().timeout_config(timeouts)
    }

    /// The server's time, asked for when its last answer is too old.
    pub(super) async fn server_time(&self) -> Result<Timestamp, StoreError> {
        if let Some(now) = self.observed.now() {
            return Ok(now);
        }
        // Any answer has a date, a refusal too.
        let ask = || async {
            let head = self.client.head_bucket().bucket(self.bucket()).customize();
            Ok(head.config_override(self.within(0)).send().await?)
        };
        let asked = self.request(ask).await;
        match (self.observed.now(), asked) {
            (Some(now), _) => Ok(now),
            (None, Err(trouble @ (Trouble::Silence(_) | Trouble::Unsent(_)))) => {
                Err(trouble.about("the store's clock", "read it"))
            }
            (None, _) => Err(StoreError::Other {
                name: "the store's clock".to_owned(),
                what: "its answers have no Date".to_owned(),
                source: None,
            }),
        }
    }
}

/// Anything up to `most`.
pub(super) fn jittered(most: Duration) -> Duration {
    let mut random = [0; 2];
    // Without random numbers the wait is as long as it may be.
    let part = getrandom::fill(&mut random).map_or(u16::MAX, |()| u16::from_le_bytes(random));
    most.mul_f64(f64::from(part) / f64::from(u16::MAX))
}
