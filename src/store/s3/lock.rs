//! Locks of versions: read, extended, held; and removal, which they refuse.
//!
//! Only COMPLIANCE counts as a lock. GOVERNANCE is told as none: whoever has the right to lifts it.
//!
//! A server answers `AccessDenied` to a removal that a lock forbids and to one that the credential has no right to. Which
//! it was is decided by reading the lock.
//!
//! An extension and a removal that meet are ordered by the store; where the server is not seen to, by waiting.

use std::sync::atomic::Ordering;

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockLegalHold, ObjectLockLegalHoldStatus, ObjectLockRetention, ObjectLockRetentionMode};
use jiff::{SignedDuration, Timestamp};

use super::S3Store;
use super::error::Trouble;
use crate::store::{LockState, StoreError, Version};

/// What servers answer for a version without a lock or a hold (S3 API; Ceph has both spellings).
const UNLOCKED: [&str; 2] = ["NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"];

/// How long a removal that a server has begun may take to be seen.
const SETTLE: SignedDuration = SignedDuration::from_secs(2);

impl S3Store {
    pub(super) async fn read_lock(&self, name: &str, key: &str, version: &Version) -> Result<LockState, StoreError> {
        let (until, held) =
            futures::try_join!(self.retention(name, key, version), self.legal_hold(name, key, version))?;
        Ok(LockState { retained_until: until, held })
    }

    /// Until when it is locked for everybody.
    pub(super) async fn retention(
        &self,
        name: &str,
        key: &str,
        version: &Version,
    ) -> Result<Option<Timestamp>, StoreError> {
        let ask = || async {
            let ask = self.client.get_object_retention().bucket(self.bucket()).key(key).version_id(&version.0);
            Ok(ask.customize().config_override(self.within(0)).send().await?)
        };
        let retention = match self.request(ask).await {
            Ok(answer) => answer.retention,
            Err(trouble) if trouble.has_code(&UNLOCKED) => None,
            Err(trouble) if trouble.status() == 200 => {
                // moto answers with the object's own bytes.
                let what = "the store does not tell its locks, so it cannot be known to keep any".to_owned();
                return Err(StoreError::Unfit { name: name.to_owned(), what });
            }
            Err(trouble) => return Err(trouble.about(name, "read its lock")),
        };
        match retention {
            Some(ObjectLockRetention {
                mode: Some(ObjectLockRetentionMode::Compliance), retain_until_date, ..
            }) => retain_until_date.map(|date| from_date(name, &date)).transpose(),
            Some(retention) => {
                tracing::warn!(object = name, mode = ?retention.mode, "a lock that can be lifted counts as none");
                Ok(None)
            }
            None => Ok(None),
        }
    }

    async fn legal_hold(&self, name: &str, key: &str, version: &Version) -> Result<bool, StoreError> {
        let ask = || async {
            let ask = self.client.get_object_legal_hold().bucket(self.bucket()).key(key).version_id(&version.0);
            Ok(ask.customize().config_override(self.within(0)).send().await?)
        };
        match self.request(ask).await {
            Ok(answer) => {
                let status = answer.legal_hold.and_then(|hold| hold.status);
                Ok(status == Some(ObjectLockLegalHoldStatus::On))
            }
            Err(trouble) if trouble.has_code(&UNLOCKED) => Ok(false),
            Err(trouble) => Err(trouble.about(name, "read its hold")),
        }
    }

    pub(super) async fn extend_lock(
        &self,
        name: &str,
        key: &str,
        version: &Version,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let until = whole_seconds(until);
        let before = self.retention(name, key, version).await?;
        if before.is_some_and(|ends| ends >= until) {
            return Ok(());
        }
        match self.set_retention(key, version, until).await {
            Ok(()) => self.see_extension(name, key, version, before, until).await,
            Err(trouble) if trouble.is_denied() => {
                // Somebody may have made it longer meanwhile, which is all that was wanted.
                let ends = self.retention(name, key, version).await?;
                if ends.is_some_and(|ends| ends >= until) {
                    Ok(())
                } else {
                    Err(trouble.about(name, "extend its lock"))
                }
            }
            Err(trouble) => Err(trouble.about(name, "extend its lock")),
        }
    }

    /// Ceph 20 was seen to say yes to both an extension and a removal that met. Only a lock that has lapsed lets a removal
    /// through, so after extending one of those it is waited until such a removal would be done, and looked again.
    async fn see_extension(
        &self,
        name: &str,
        key: &str,
        version: &Version,
        before: Option<Timestamp>,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let soon = self.server_time().await?.checked_add(SETTLE).unwrap_or(Timestamp::MAX);
        let removable = before.is_none_or(|ends| ends <= soon);
        if removable {
            tokio::time::sleep(SETTLE.unsigned_abs()).await;
        }
        if removable || !self.extend_seen.load(Ordering::Relaxed) {
            self.see_lock(name, key, version, until).await?;
            self.extend_seen.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) async fn set_retention(&self, key: &str, version: &Version, until: Timestamp) -> Result<(), Trouble> {
        let ask = || async {
            let lock = ObjectLockRetention::builder()
                .mode(ObjectLockRetentionMode::Compliance)
                .retain_until_date(to_date(until))
                .build();
            let set = self.client.put_object_retention().bucket(self.bucket()).key(key).version_id(&version.0);
            set.retention(lock).customize().config_override(self.within(0)).send().await?;
            Ok(())
        };
        self.request(ask).await
    }

    /// Reads a lock back that the server said it has set.
    pub(super) async fn see_lock(
        &self,
        name: &str,
        key: &str,
        version: &Version,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        match self.retention(name, key, version).await? {
            Some(ends) if ends >= until => Ok(()),
            found => {
                let found =
                    found.map_or("is not locked at all".to_owned(), |ends| format!("is locked until {ends} only"));
                let what = format!("the store said yes to a lock until {until}, and the object {found}");
                Err(StoreError::Unfit { name: name.to_owned(), what })
            }
        }
    }

    pub(super) async fn set_hold(
        &self,
        name: &str,
        key: &str,
        version: &Version,
        held: bool,
    ) -> Result<(), StoreError> {
        let status = if held { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
        let ask = || async {
            let hold = ObjectLockLegalHold::builder().status(status.clone()).build();
            let set = self.client.put_object_legal_hold().bucket(self.bucket()).key(key).version_id(&version.0);
            set.legal_hold(hold).customize().config_override(self.within(0)).send().await?;
            Ok(())
        };
        let tried = if held { "hold it" } else { "lift its hold" };
        self.request(ask).await.map_err(|trouble| trouble.about(name, tried))
    }

    pub(super) async fn remove_version(&self, name: &str, key: &str, version: &Version) -> Result<(), StoreError> {
        // S3 says yes to the removal of what is not there, so it is looked at first.
        self.check_unlocked(name, key, version).await?;
        let ask = || async {
            let remove = self.client.delete_object().bucket(self.bucket()).key(key).version_id(&version.0);
            remove.customize().config_override(self.within(0)).send().await?;
            Ok(())
        };
        match self.request(ask).await {
            Err(trouble) if trouble.is_denied() => {
                // Locked or held meanwhile, or never allowed.
                self.check_unlocked(name, key, version).await?;
                Err(trouble.about(name, "remove it"))
            }
            done => done.map_err(|trouble| trouble.about(name, "remove it")),
        }
    }

    async fn check_unlocked(&self, name: &str, key: &str, version: &Version) -> Result<(), StoreError> {
        let state = self.read_lock(name, key, version).await?;
        if !state.binds(self.server_time().await?) {
            return Ok(());
        }
        Err(StoreError::Locked { name: name.to_owned(), until: state.end() })
    }
}

/// The next whole second: servers keep no less, and a lock must not be shorter than asked for.
pub(super) fn whole_seconds(time: Timestamp) -> Timestamp {
    let up = time.as_second() + i64::from(time.subsec_nanosecond() > 0);
    Timestamp::from_second(up).unwrap_or(time)
}

pub(super) fn to_date(time: Timestamp) -> DateTime {
    DateTime::from_secs(time.as_second())
}

pub(super) fn from_date(name: &str, date: &DateTime) -> Result<Timestamp, StoreError> {
    let nanos = i32::try_from(date.subsec_nanos()).unwrap_or(0);
    Timestamp::new(date.secs(), nanos).map_err(|error| StoreError::Other {
        name: name.to_owned(),
        what: "the store tells a time that is none".to_owned(),
        source: Some(error.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_never_rounded_down() {
        for (asked, set) in [
            ("2026-11-22T08:00:00Z", "2026-11-22T08:00:00Z"),
            ("2026-11-22T08:00:00.000000001Z", "2026-11-22T08:00:01Z"),
            ("1969-12-31T23:59:58.5Z", "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(whole_seconds(asked.parse().unwrap()), set.parse().unwrap(), "{asked}");
        }
    }
}
