//! The requests that show a right and change nothing.
//!
//! Seen on Ceph (16 to 20) and as AWS documents it: rights are checked before what is asked for. A store that takes nonsense
//! for a change is told apart by its yes, which counts as the right; the policy, the one thing that could be harmed so, is put back.

use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketVersioningStatus, ExpirationStatus, LifecycleExpiration, LifecycleRule,
    LifecycleRuleFilter, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
    ObjectLockRetention, ObjectLockRetentionMode, VersioningConfiguration,
};
use jiff::{SignedDuration, Timestamp};

use super::{Found, Right};
use crate::store::honesty::s3::{Answer, NO_MD5, Target, Trouble, answer};

/// What no store takes for a setting.
const NONSENSE: &str = "lifeboat-probe";
/// What the credential can do in the bucket. `now` is the store's time, `stamp` makes a name that nothing has.
///
/// # Errors
/// `Unreachable`.
pub async fn probe(target: &Target, stamp: &str, now: Timestamp) -> Result<Found, Trouble> {
    let probing = Probing { target, absent: target.key(&format!("canary/{stamp}/probe")) };
    let mut found = Found::new();
    let mut tell = |right, seen: Option<bool>| found.extend(seen.map(|has| (right, has)));
    let objects = probing.listed("").await?;
    tell(Right::List, Some(objects.is_some()));
    let objects = objects.unwrap_or_default();
    let pack = objects.iter().find(|key| key.ends_with(".tar.zst.age") || key.ends_with(".span.zst.age"));
    let canary = probing.listed("canary/").await?.unwrap_or_default().into_iter().next();
    if let Some(pack) = pack {
        tell(Right::ReadBackups, probing.reads(pack).await?);
    }
    tell(Right::Put, probing.puts().await?);
    tell(Right::RemoveVersions, probing.removes().await?);
    if let Some(canary) = &canary {
        tell(Right::ExtendLocks, probing.extends(canary, now).await?);
        tell(Right::SetHolds, probing.holds(canary).await?);
    }
    tell(Right::ChangeVersioning, probing.versioning().await?);
    tell(Right::ChangeLockConfiguration, probing.lock_configuration().await?);
    tell(Right::ChangeLifecycle, probing.lifecycle().await?);
    tell(Right::ChangePolicy, probing.policy().await?);
    Ok(found)
}

struct Probing<'a> {
    target: &'a Target,
    /// A key that nothing has.
    absent: String,
}

/// A right is there when the request got past it. `None` where the store cannot do such a thing at all.
fn got_past<T>(said: Result<Answer<T>, Trouble>) -> Result<Option<bool>, Trouble> {
    match said {
        Ok(Answer::Yes(_) | Answer::No(_)) => Ok(Some(true)),
        Ok(Answer::Denied) => Ok(Some(false)),
        Err(trouble @ Trouble::Unreachable(_)) => Err(trouble),
        Err(_) => Ok(None),
    }
}

impl Probing<'_> {
    /// Keys of objects whose names begin so; `None` where listing is denied.
    async fn listed(&self, prefix: &str) -> Result<Option<Vec<String>>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let asked = client.list_object_versions().bucket(bucket).prefix(self.target.key(prefix)).send();
        let Answer::Yes(found) = answer(asked.await)? else { return Ok(None) };
        Ok(Some(found.versions().iter().filter_map(|version| version.key.clone()).collect()))
    }

    async fn reads(&self, key: &str) -> Result<Option<bool>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let asked = client.head_object().bucket(bucket).key(key).send().await;
        Ok(match answer(asked)? {
            Answer::Yes(_) => Some(true),
            Answer::Denied => Some(false),
            Answer::No(_) => None, // gone, or under a marker
        })
    }

    /// A content with another's checksum is not stored.
    async fn puts(&self) -> Result<Option<bool>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let body = ByteStream::from_static(b"never stored\n");
        let put = client.put_object().bucket(bucket).key(&self.absent).body(body).content_md5(NO_MD5);
        got_past(answer(put.send().await))
    }

    /// A version of what does not exist. What only looks wrong to the store (400) says nothing.
    async fn removes(&self) -> Result<Option<bool>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let version = "lifeboatprobe0000000000000000000";
        let asked = client.delete_object().bucket(bucket).key(&self.absent).version_id(version).send();
        match answer(asked.await) {
            Ok(Answer::No(code)) if !code.starts_with("404") => Ok(None),
            said => got_past(said),
        }
    }

    async fn extends(&self, canary: &str, now: Timestamp) -> Result<Option<bool>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let until = now.checked_add(SignedDuration::from_secs(60)).unwrap_or(now);
        let lock = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::from(NONSENSE))
            .retain_until_date(DateTime::from_secs(until.as_second()))
            .build();
        got_past(answer(client.put_object_retention().bucket(bucket).key(canary).retention(lock).send().await))
    }

    async fn holds(&self, canary: &str) -> Result<Option<bool>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let hold = ObjectLockLegalHold::builder().status(ObjectLockLegalHoldStatus::from(NONSENSE)).build();
        got_past(answer(client.put_object_legal_hold().bucket(bucket).key(canary).legal_hold(hold).send().await))
    }

    async fn versioning(&self) -> Result<Option<bool>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let wanted = VersioningConfiguration::builder().status(BucketVersioningStatus::from(NONSENSE)).build();
        let asked = client.put_bucket_versioning().bucket(bucket).versioning_configuration(wanted);
        got_past(answer(asked.send().await))
    }

    async fn lock_configuration(&self) -> Result<Option<bool>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let wanted = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::from(NONSENSE)).build();
        let asked = client.put_object_lock_configuration().bucket(bucket).object_lock_configuration(wanted);
        got_past(answer(asked.send().await))
    }

    async fn lifecycle(&self) -> Result<Option<bool>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let unable = |error: aws_sdk_s3::error::BuildError| Trouble::Unable(error.to_string());
        let rule = LifecycleRule::builder()
            .id(NONSENSE)
            .status(ExpirationStatus::from(NONSENSE))
            .filter(LifecycleRuleFilter::builder().prefix(&self.absent).build())
            .expiration(LifecycleExpiration::builder().days(1).build())
            .build();
        let wanted = BucketLifecycleConfiguration::builder().rules(rule.map_err(unable)?).build().map_err(unable)?;
        let asked = client.put_bucket_lifecycle_configuration().bucket(bucket).lifecycle_configuration(wanted);
        got_past(answer(asked.send().await))
    }

    /// Half a brace is no policy. Where it was taken for one, what was there before comes back.
    async fn policy(&self) -> Result<Option<bool>, Trouble> {
        let Target { client, bucket, .. } = self.target;
        let before = match client.get_bucket_policy().bucket(bucket).send().await {
            Ok(found) => Some(found.policy),
            Err(error) if error.code() == Some("NoSuchBucketPolicy") => Some(None),
            Err(_) => None,
        };
        let said = answer(client.put_bucket_policy().bucket(bucket).policy("{").send().await);
        if let Ok(Answer::Yes(_)) = said {
            let back = match before {
                Some(Some(policy)) => {
                    client.put_bucket_policy().bucket(bucket).policy(policy).send().await.map(drop).is_ok()
                }
                Some(None) => client.delete_bucket_policy().bucket(bucket).send().await.map(drop).is_ok(),
                // Nobody knows what was there: half a brace denies everything, which is better than nothing denied.
                None => false,
            };
            if !back {
                tracing::error!(bucket, "the store took half a brace for a policy, and the one before is not back");
            }
        }
        got_past(said)
    }
}
