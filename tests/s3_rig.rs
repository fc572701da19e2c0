//! The S3 servers of the rig: the good one keeps a lock, the bad one takes it back, a user may only what a policy lets him.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};
use support::moto::Moto;
use support::rgw::Rgw;
use support::s3;

/// Seconds since 1970, `later` from now.
fn in_future(later: Duration) -> DateTime {
    DateTime::from(std::time::SystemTime::now() + later)
}

/// Puts an object locked for an hour; true when its lock can then be shortened to a minute.
async fn a_lock_can_be_shortened(client: &Client, bucket: &str) -> bool {
    let hour = in_future(Duration::from_secs(3600));
    let put = client.put_object().bucket(bucket).key("a").body(ByteStream::from_static(b"x"));
    let put = put.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(hour);
    let version = put.send().await.expect("it is put").version_id.expect("it has a version");
    let minute = in_future(Duration::from_secs(60));
    let lock = ObjectLockRetention::builder().mode(ObjectLockRetentionMode::Compliance).retain_until_date(minute);
    let shorten = client.put_object_retention().bucket(bucket).key("a").version_id(&version);
    shorten.retention(lock.build()).send().await.is_ok()
}

#[test]
fn rgw_keeps_a_lock_from_its_owner() {
    let Some(rgw) = Rgw::get("rgw_keeps_a_lock_from_its_owner") else { return };
    let bucket = rgw.bucket();
    assert!(!s3::wait(a_lock_can_be_shortened(&rgw.client(), &bucket)));
}

#[test]
fn moto_lets_a_lock_be_shortened() {
    let Some(moto) = Moto::start("moto_lets_a_lock_be_shortened") else { return };
    let bucket = moto.bucket();
    assert!(s3::wait(a_lock_can_be_shortened(&moto.client(), &bucket)));
}

#[test]
fn a_new_user_of_rgw_may_only_what_the_policy_lets_him() {
    let Some(rgw) = Rgw::get("a_new_user_of_rgw_may_only_what_the_policy_lets_him") else { return };
    let (bucket, user) = (rgw.bucket(), rgw.user());
    let put = |key: &str| {
        let put = s3::client(&rgw.endpoint, &user).put_object().bucket(&bucket).key(key);
        s3::wait(put.body(ByteStream::from_static(b"x")).send()).is_ok()
    };
    assert!(!put("mine/a"), "nobody lets him yet");
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
        "Principal": {"AWS": [user.arn()]}, "Action": ["s3:PutObject"], "Resource": [format!("arn:aws:s3:::{bucket}/mine/*")]}]});
    s3::set_policy(&rgw.client(), &bucket, &policy);
    assert!(put("mine/a"));
    assert!(!put("yours/a"));
}
