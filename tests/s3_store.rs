//! The S3 store on real servers: Ceph, which keeps every lock, and moto, which does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use lifeboat::clock::Clock;
use lifeboat::failure::{Failure, Kind};
use lifeboat::store::s3::{Access, S3Options, S3Store};
use lifeboat::store::{Listed, Store, StoreError, contract};
use serde_json::json;
use support::moto::Moto;
use support::rgw::Rgw;
use support::s3::{self, Keys};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn options(endpoint: &str, keys: &Keys, bucket: &str) -> S3Options {
    S3Options {
        endpoint: Some(endpoint.to_owned()),
        path_style: true,
        access: Access::Keys(Credentials::new(&keys.access_key, &keys.secret_key, None, None, "test")),
        attempts: 2,
        ..S3Options::new(bucket)
    }
}

async fn on(rgw: &Rgw, bucket: &str) -> S3Store {
    S3Store::open(options(&rgw.endpoint, &rgw.keys, bucket)).await.unwrap()
}

/// In whole seconds, as servers keep them.
async fn in_future(store: &S3Store, later: SignedDuration) -> Timestamp {
    store.now().await.unwrap().round(jiff::Unit::Second).unwrap() + later
}

async fn listed(store: &S3Store, prefix: &str) -> Vec<Listed> {
    store.list(prefix).try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract_on_ceph() {
    let Some(rgw) = Rgw::get("it_keeps_the_contract_on_ceph") else { return };
    let options = S3Options { prefix: "some/estate".to_owned(), ..options(&rgw.endpoint, &rgw.keys, &rgw.bucket()) };
    let make = || async { Ok(Arc::new(S3Store::open(options.clone()).await?) as Arc<dyn Store>) };
    contract::check(make, &Clock::system(), "c").await.unwrap();
}

/// moto takes a put with a lock, and has no way to ask for the lock afterwards. Whatever it does with it, nothing is called stored.
#[tokio::test(flavor = "multi_thread")]
async fn on_moto_nothing_counts_as_stored_and_that_is_the_rule_it_breaks() {
    let Some(moto) = Moto::start("on_moto_nothing_counts_as_stored_and_that_is_the_rule_it_breaks") else { return };
    let options = options(&moto.endpoint, &moto.keys, &moto.bucket());
    let store = S3Store::open(options.clone()).await.unwrap();
    let large = S3Store::open(S3Options { multipart_from: 1, ..options.clone() }).await.unwrap();
    for (store, bytes) in [(&store, ""), (&store, "some"), (&large, "in one part")] {
        let put = store.put("a/b", Bytes::from_static(bytes.as_bytes()), in_future(store, HOUR).await).await;
        let refused = matches!(&put, Err(StoreError::Unfit { .. } | StoreError::Exists { .. }));
        assert!(refused, "'{bytes}': {put:?}");
    }
    let make = || async { Ok(Arc::new(S3Store::open(options.clone()).await?) as Arc<dyn Store>) };
    let broken = contract::check(make, &Clock::system(), "c").await.unwrap_err();
    assert_eq!(broken.rule, "what was put is what is read");
    assert!(broken.detail.contains("lock"), "{broken}");
}

#[tokio::test]
async fn an_upload_in_parts_is_whole_locked_and_create_only_on_ceph() {
    let Some(rgw) = Rgw::get("an_upload_in_parts_is_whole_locked_and_create_only_on_ceph") else { return };
    let options = options(&rgw.endpoint, &rgw.keys, &rgw.bucket());
    let store = S3Store::open(S3Options { multipart_from: 6 << 20, part_bytes: 5 << 20, ..options }).await.unwrap();
    let bytes = Bytes::from(support::random(12 << 20));
    let until = in_future(&store, HOUR).await;
    let version = store.put("packs/large", bytes.clone(), until).await.unwrap();
    assert_eq!(store.lock_state("packs/large", &version).await.unwrap().retained_until, Some(until));
    assert_eq!(store.get("packs/large", Some(&version), None).await.unwrap(), bytes);
    assert_eq!(store.get("packs/large", None, Some(5_242_870..5_242_890)).await.unwrap(), bytes[5_242_870..5_242_890]);
    let removed = store.remove("packs/large", &version).await;
    assert!(matches!(removed, Err(StoreError::Locked { .. })), "{removed:?}");
    let again = store.put("packs/large", Bytes::from(vec![7; 7 << 20]), until).await;
    assert!(!rgw.recent || matches!(again, Err(StoreError::Exists { .. })), "{again:?}");
    let uploads = rgw.client().list_multipart_uploads().bucket(store.bucket()).send().await.unwrap();
    assert!(uploads.uploads().is_empty(), "what was refused leaves no parts: {uploads:?}");
}

#[tokio::test]
async fn a_short_lock_lapses_and_lets_go() {
    let Some(rgw) = Rgw::get("a_short_lock_lapses_and_lets_go") else { return };
    let store = on(&rgw, &rgw.bucket()).await;
    let until = in_future(&store, SignedDuration::from_secs(6)).await;
    let version = store.put("a", Bytes::from_static(b"x"), until).await.unwrap();
    let early = store.remove("a", &version).await;
    assert!(matches!(early, Err(StoreError::Locked { .. })), "{early:?}");
    while store.now().await.unwrap() <= until {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    store.remove("a", &version).await.unwrap();
    assert!(listed(&store, "").await.is_empty());
    let again = store.remove("a", &version).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })), "S3 would say yes to nothing: {again:?}");
}

#[tokio::test]
async fn over_tls_only_the_ca_that_was_named_is_trusted() {
    let Some(rgw) = Rgw::get("over_tls_only_the_ca_that_was_named_is_trusted") else { return };
    let bucket = rgw.bucket();
    let plain = options(&rgw.tls_endpoint, &rgw.keys, &bucket);
    let store = S3Store::open(S3Options { ca_file: Some(rgw.ca_file.clone()), ..plain.clone() }).await.unwrap();
    store.put("a", Bytes::from_static(b"over tls"), in_future(&store, HOUR).await).await.unwrap();
    assert_eq!(store.get("a", None, None).await.unwrap(), "over tls");

    let dir = support::scratch();
    let (other, junk) = (dir.path().join("other.pem"), dir.path().join("junk.pem"));
    let mut make = std::process::Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-keyout", "/dev/null", "-out"]);
    support::process::run(make.arg(&other).stderr(std::process::Stdio::null()));
    std::fs::write(&junk, "no certificate").unwrap();
    for (ca_file, wanted) in [(None, Kind::Unreachable), (Some(other), Kind::Unreachable), (Some(junk), Kind::Failed)] {
        let error =
            Failure::from(S3Store::open(S3Options { ca_file: ca_file.clone(), ..plain.clone() }).await.unwrap_err());
        assert_eq!(error.kind, wanted, "{ca_file:?}: {error}");
        assert!(error.cause.contains("certificate"), "{ca_file:?}: {error}");
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_and_no_secret_is_said() {
    let Some(rgw) = Rgw::get("who_is_not_let_in_is_told_why_and_no_secret_is_said") else { return };
    let bucket = rgw.bucket();
    let wrong_secret = Keys { secret_key: "wrongwrongwrong".to_owned(), ..rgw.keys.clone() };
    let unknown = Keys { access_key: "NOBODYATALL".to_owned(), ..rgw.keys.clone() };
    let nowhere = "http://127.0.0.1:1".to_owned();
    for (endpoint, keys, bucket, kind, word) in [
        (&rgw.endpoint, &wrong_secret, &bucket, Kind::Refused, "credential"),
        (&rgw.endpoint, &unknown, &bucket, Kind::Refused, "credential"),
        (&rgw.endpoint, &rgw.keys, &"not-there".to_owned(), Kind::Unreachable, "no such bucket"),
        (&nowhere, &rgw.keys, &bucket, Kind::Unreachable, "does not answer"),
    ] {
        // With STS, Ceph does not tell a wrong secret from a missing right, and a missing right is no reason not to open.
        let error = match S3Store::open(options(endpoint, keys, bucket)).await {
            Ok(store) => store.list("").try_collect::<Vec<_>>().await.unwrap_err(),
            Err(error) => error,
        };
        let debug = format!("{error:?}");
        let failure = Failure::from(error);
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.to_string().contains(word), "'{word}' is not said: {failure}");
        for secret in [&keys.secret_key, &keys.access_key] {
            assert!(!debug.contains(secret) && !failure.to_string().contains(secret), "{debug}");
        }
    }
    let store = on(&rgw, &bucket).await;
    assert!(!format!("{store:?}").contains(&rgw.keys.secret_key));
}

#[tokio::test]
async fn nothing_is_written_to_a_bucket_without_object_lock() {
    let Some(rgw) = Rgw::get("nothing_is_written_to_a_bucket_without_object_lock") else { return };
    let bucket = s3::fresh_bucket(&rgw.client(), false);
    let store = on(&rgw, &bucket).await;
    assert!(!store.promises().locks_enforced);
    let refused = store.put("a", Bytes::from_static(b"x"), in_future(&store, HOUR).await).await.unwrap_err();
    assert_eq!(Failure::from(refused).kind, Kind::Refused);
    assert!(listed(&store, "").await.is_empty(), "and it can be read");
    let fit = on(&rgw, &rgw.bucket()).await;
    assert!(fit.promises().locks_enforced && !fit.promises().create_only);
}

#[tokio::test]
async fn versions_under_a_delete_marker_and_strange_keys_do_not_confuse_a_listing() {
    let Some(rgw) = Rgw::get("versions_under_a_delete_marker_and_strange_keys_do_not_confuse_a_listing") else {
        return;
    };
    let (bucket, client) = (rgw.bucket(), rgw.client());
    let options = S3Options { prefix: "estate".to_owned(), page: 2, ..options(&rgw.endpoint, &rgw.keys, &bucket) };
    let store = S3Store::open(options).await.unwrap();
    let until = in_future(&store, HOUR).await;
    let mut versions = Vec::new();
    for name in ["a/1", "a/2", "a/3", "b"] {
        versions.push(store.put(name, Bytes::from_static(b"ours"), until).await.unwrap());
    }
    client.delete_object().bucket(&bucket).key("estate/a/2").send().await.unwrap();
    // Somebody else's: keys that are no names, a key beside the prefix, a newer version of one of ours.
    for key in ["estate/a b", "estate/\u{1}", "estate/ä", "estate//x", "estate/../x", "estates/x", "estate/a/3"] {
        client.put_object().bucket(&bucket).key(key).body(ByteStream::from_static(b"theirs")).send().await.unwrap();
    }
    let entries = listed(&store, "").await;
    let found: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.bytes, entry.current)).collect();
    let wanted = [("a/1", 4, true), ("a/2", 4, false), ("a/3", 6, true), ("a/3", 4, false), ("b", 4, true)];
    assert_eq!(found, wanted);
    let hidden = store.get("a/2", None, None).await;
    assert!(matches!(hidden, Err(StoreError::NotFound { .. })), "{hidden:?}");
    assert_eq!(store.get("a/2", Some(&versions[1]), None).await.unwrap(), "ours");
    assert_eq!(store.get("a/3", Some(&versions[2]), None).await.unwrap(), "ours");
    assert_eq!(store.lock_state("a/2", &versions[1]).await.unwrap().retained_until, Some(until));
}

#[tokio::test]
async fn a_right_that_is_missing_is_told_from_a_lock() {
    let Some(rgw) = Rgw::get("a_right_that_is_missing_is_told_from_a_lock") else { return };
    let (bucket, user) = (rgw.bucket(), rgw.user());
    let owner = on(&rgw, &bucket).await;
    let soon = in_future(&owner, SignedDuration::from_secs(3)).await;
    let lapsing = owner.put("lapsing", Bytes::from_static(b"x"), soon).await.unwrap();
    let locked = owner.put("locked", Bytes::from_static(b"x"), in_future(&owner, HOUR).await).await.unwrap();
    // Everything but removal and extension.
    let rights = [
        "s3:ListBucket",
        "s3:ListBucketVersions",
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:GetObjectRetention",
        "s3:GetObjectLegalHold",
        "s3:PutObject",
    ];
    let policy = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": [user.arn()]},
        "Action": rights, "Resource": [format!("arn:aws:s3:::{bucket}"), format!("arn:aws:s3:::{bucket}/*")]}]});
    s3::set_policy(&rgw.client(), &bucket, &policy);
    let store = S3Store::open(options(&rgw.endpoint, &user, &bucket)).await.unwrap();
    assert_eq!(listed(&store, "").await.len(), 2);
    while store.now().await.unwrap() <= soon {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let answers = [
        ("remove", store.remove("lapsing", &lapsing).await),
        ("extend", store.extend("locked", &locked, in_future(&store, HOUR + HOUR).await).await),
        ("hold", store.hold("locked", &locked, true).await),
        // Whether the bucket is fit it may not ask either.
        ("put", store.put("new", Bytes::from_static(b"x"), in_future(&store, HOUR).await).await.map(drop)),
    ];
    for (call, answer) in answers {
        assert!(matches!(answer, Err(StoreError::Denied { .. })), "{call}: {answer:?}");
    }
    let refused = store.remove("locked", &locked).await;
    assert!(matches!(refused, Err(StoreError::Locked { .. })), "{refused:?}");
}
