//! A canary: a small object with a lock, under `canary/<time>-<rand>/<attack>`, that an attack is tried on.

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant};

use super::{Answer, Locks, Target, Trouble, answer};
use crate::ids::Digest;
use crate::store::honesty::{Attack, Outcome};

/// What a canary says to whoever finds it.
const BYTES: &[u8] = b"A canary of lifeboat's store drill. It may go when its lock has lapsed.\n";

/// Where a drill takes place, and its time: the store's at the beginning, and what has passed here since.
pub(super) struct Ground<'a> {
    pub target: &'a Target,
    pub stamp: &'a str,
    pub began: Instant,
    pub now: Timestamp,
    pub locks: Locks,
}

/// A version that is locked, as the store said.
#[derive(Debug, Clone)]
pub(super) struct Canary {
    pub key: String,
    pub version: String,
    pub until: Timestamp,
}

impl Ground<'_> {
    /// The store's time now.
    pub fn time(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.began.elapsed()).unwrap_or_default();
        self.now.checked_add(passed).unwrap_or(self.now)
    }

    /// When the store's clock shows `time`, by ours.
    pub fn instant(&self, time: Timestamp) -> Instant {
        let ahead = Duration::try_from(time.duration_since(self.now)).unwrap_or_default();
        self.began + ahead
    }

    pub fn key(&self, name: &str) -> String {
        self.target.key(&format!("canary/{}/{name}", self.stamp))
    }

    /// A canary for `attack`, locked for the drill's time.
    pub async fn canary(&self, attack: Attack) -> Result<Canary, Trouble> {
        self.plant(attack.name(), self.locks.lock).await
    }

    /// A canary called `name`, locked in COMPLIANCE mode for `lock`. Whole seconds: some stores keep no others.
    pub async fn plant(&self, name: &str, lock: SignedDuration) -> Result<Canary, Trouble> {
        let until = self.after(lock);
        let key = self.key(name);
        match answer(self.locked(&key, ObjectLockMode::Compliance, until).send().await)? {
            Answer::Yes(done) => match done.version_id {
                Some(version) if version != "null" => Ok(Canary { key, version, until }),
                _ => Err(Trouble::NoCanary("the bucket keeps no versions".into())),
            },
            Answer::Denied => Err(Trouble::NoCanary("this credential may put nothing here".into())),
            Answer::No(code) => Err(Trouble::NoCanary(code)),
        }
    }

    /// A put of the canary's few bytes at `key`, with nothing else said.
    pub fn put(&self, key: &str) -> PutObjectFluentBuilder {
        self.target.client.put_object().bucket(&self.target.bucket).key(key).body(ByteStream::from_static(BYTES))
    }

    /// The same with lock headers. They want a checksum beside them (S3 API, `PutObject`).
    pub fn locked(&self, key: &str, mode: ObjectLockMode, until: Timestamp) -> PutObjectFluentBuilder {
        let sum = BASE64.encode(Digest::of(BYTES).0);
        let put = self.put(key).checksum_algorithm(ChecksumAlgorithm::Sha256).checksum_sha256(sum);
        put.object_lock_mode(mode).object_lock_retain_until_date(date(until))
    }

    pub fn after(&self, lock: SignedDuration) -> Timestamp {
        let end = self.time().checked_add(lock).unwrap_or(Timestamp::MAX);
        Timestamp::from_second(end.as_second() + 1).unwrap_or(end)
    }

    /// Whether the version can still be read.
    pub async fn there(&self, canary: &Canary) -> Result<bool, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let asked = client.get_object().bucket(bucket).key(&canary.key).version_id(&canary.version).send();
        match answer(asked.await)? {
            Answer::Yes(_) => Ok(true),
            Answer::No(_) => Ok(false),
            Answer::Denied => Err(Trouble::NoRight("read its canaries")),
        }
    }

    /// Whether a listing of versions shows it.
    pub async fn listed(&self, canary: &Canary) -> Result<bool, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let asked = client.list_object_versions().bucket(bucket).prefix(&canary.key).send();
        match answer(asked.await)? {
            Answer::Yes(found) => {
                let is_it = |version: &String| *version == canary.version;
                Ok(found.versions().iter().any(|found| found.version_id.as_ref().is_some_and(is_it)))
            }
            Answer::No(code) => Err(Trouble::Unable(code)),
            Answer::Denied => Err(Trouble::NoRight("list versions")),
        }
    }

    /// Mode and end of the version's lock; `None` where it has none.
    pub async fn lock(&self, canary: &Canary) -> Result<Option<(ObjectLockRetentionMode, Timestamp)>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let asked = client.get_object_retention().bucket(bucket).key(&canary.key).version_id(&canary.version).send();
        match answer(asked.await) {
            Ok(Answer::Yes(found)) => Ok(found.retention.and_then(|retention| {
                let until = Timestamp::from_second(retention.retain_until_date?.secs()).ok()?;
                Some((retention.mode?, until))
            })),
            Ok(Answer::No(_)) => Ok(None),
            Ok(Answer::Denied) => Err(Trouble::NoRight("read locks")),
            // moto does not know the request, and gives the object; its lock stands in the answer to HEAD as well.
            Err(Trouble::Unable(_)) => self.lock_in_head(canary).await,
            Err(trouble) => Err(trouble),
        }
    }

    async fn lock_in_head(&self, canary: &Canary) -> Result<Option<(ObjectLockRetentionMode, Timestamp)>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let asked = client.head_object().bucket(bucket).key(&canary.key).version_id(&canary.version).send();
        let Answer::Yes(found) = answer(asked.await)? else { return Ok(None) };
        let mode = found.object_lock_mode.map(|mode| ObjectLockRetentionMode::from(mode.as_str()));
        let until = found.object_lock_retain_until_date.and_then(|date| Timestamp::from_second(date.secs()).ok());
        Ok(mode.zip(until))
    }

    /// Asks for another lock on it; `bypass` with the header that lifts governance locks.
    pub async fn retain(
        &self,
        canary: &Canary,
        (mode, until): (ObjectLockRetentionMode, Timestamp),
        bypass: bool,
    ) -> Result<Answer<()>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(date(until)).build();
        let asked = client.put_object_retention().bucket(bucket).key(&canary.key).version_id(&canary.version);
        let asked = if bypass { asked.bypass_governance_retention(true) } else { asked };
        Ok(match answer(asked.retention(retention).send().await)? {
            Answer::Yes(_) => Answer::Yes(()),
            Answer::Denied => Answer::Denied,
            Answer::No(code) => Answer::No(code),
        })
    }

    /// The judgement over an attack that wanted the version gone or hidden: what counts is whether it is there.
    pub async fn survives<T: Sync>(&self, canary: &Canary, said: &Answer<T>) -> Result<(Outcome, String), Trouble> {
        let kept = self.there(canary).await? && self.listed(canary).await?;
        Ok(match (kept, said) {
            (false, _) => (Outcome::Lied, format!("a version locked until {} is gone", canary.until)),
            (true, Answer::Yes(_)) => {
                (Outcome::SeenThrough, "it was let happen; the locked version is still there".into())
            }
            (true, Answer::Denied) => (Outcome::Refused, "denied".into()),
            (true, Answer::No(code)) => (Outcome::Refused, code.clone()),
        })
    }
}

pub(super) fn date(time: Timestamp) -> DateTime {
    DateTime::from_secs(time.as_second())
}
