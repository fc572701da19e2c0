//! The policies on a real server: each role may what its commands need, and nothing else. Exhaustively: role by operation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketVersioningStatus, ObjectCannedAcl, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold,
    ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode, VersioningConfiguration,
};
use lifeboat::clock::Clock;
use lifeboat::ids::Role;
use lifeboat::store::credential::{Complaint, Right, judge, probe};
use lifeboat::store::honesty::s3::{Locks, Target, drill};
use lifeboat::store::honesty::{Outcome, Verdict, verdict};
use lifeboat::store::policy::{Confined, Dialect, Grant, Ground, Holds, ceph_user, printed};

mod support;
use support::rgw::Rgw;
use support::s3::{self, Keys};

const PREFIX: &str = "shop";
const STAMP: &str = "20261122T072400Z-1a2b3c4d";

/// A bucket in which every role has a user, as the printed policies say.
struct Roles {
    rgw: Rgw,
    bucket: String,
    keys: BTreeMap<String, Keys>,
}

impl Roles {
    fn new(test: &str, grants: &[Grant]) -> Option<Self> {
        let rgw = Rgw::get(test)?;
        let bucket = rgw.bucket();
        let ground =
            Ground { bucket: bucket.clone(), prefix: PREFIX.into(), longest_lock_days: 2557, holds: Holds::Backups };
        let mut text = printed(Dialect::Ceph, grants, &ground)["bucket_policy"].to_string();
        let mut keys = BTreeMap::new();
        for grant in grants {
            let user = rgw.user();
            // The quotation mark, or the reader's would be found in the confined reader's.
            text = text.replace(&format!("user/{}\"", ceph_user(grant)), &format!("user/{}\"", user.user));
            keys.insert(grant.name(), user);
        }
        s3::set_policy(&rgw.client(), &bucket, &serde_json::from_str(&text).unwrap());
        Some(Self { rgw, bucket, keys })
    }

    fn client(&self, name: &str) -> Client {
        s3::client(&self.rgw.endpoint, &self.keys[name])
    }

    fn target(&self, client: Client) -> Target {
        Target { client, bucket: self.bucket.clone(), prefix: PREFIX.into() }
    }
}

fn every_grant() -> Vec<Grant> {
    let confined = Confined { tenant: "acme".into(), cluster: "main".into() };
    let own = Grant { role: Role::Reader, confined: Some(confined) };
    Role::ALL.into_iter().map(Grant::of).chain([own]).collect()
}

fn in_seconds(seconds: i64) -> DateTime {
    DateTime::from_secs(Clock::system().now().as_second() + seconds)
}

/// Whether the server got past the right: anything but "access denied". What else it said is its own affair.
fn may<T, E: ProvideErrorMetadata>(result: &Result<T, SdkError<E>>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => {
            let status = error.raw_response().expect("an answer").status().as_u16();
            assert!(status < 500, "{status} {:?}", error.code());
            status != 403
        }
    }
}

/// An object of the owner's, or of `client`'s; its version. Locked as asked.
async fn put(client: &Client, bucket: &str, key: &str, lock: Option<(ObjectLockMode, i64)>) -> String {
    let put = client.put_object().bucket(bucket).key(key).body(ByteStream::from_static(b"x"));
    let put = match lock {
        Some((mode, seconds)) => put.object_lock_mode(mode).object_lock_retain_until_date(in_seconds(seconds)),
        None => put,
    };
    put.send().await.expect("it is put").version_id.expect("a version")
}

const PACK: &str = "shop/tenant/acme/packs/00/a.tar.zst.age";
const OTHERS: &str = "shop/tenant/globex/packs/00/a.tar.zst.age";
const WRITTEN: &str = "shop/tenant/acme/packs/00/written.tar.zst.age";
const ENVELOPE: &str = "shop/tenant/acme/points/p.envelope.json";
const CHUNKS: &str = "shop/tenant/acme/sets/main/s.chunks.age";
const LEDGER: &str = "shop/estate/erasures/e.json";
const OUTSIDE: &str = "elsewhere/tenant/acme/packs/00/a.tar.zst.age";

/// Every operation that anybody might try, and whether `client` may.
async fn tried(client: &Client, owner: &Client, bucket: &str) -> BTreeMap<&'static str, bool> {
    let mut found = BTreeMap::new();
    let mut tell = |name, may| assert!(found.insert(name, may).is_none(), "{name} twice");
    let list = async |prefix| may(&client.list_object_versions().bucket(bucket).prefix(prefix).send().await);
    tell("list all", list("shop/").await);
    tell("list acme", list("shop/tenant/acme/").await);
    tell("list globex", list("shop/tenant/globex/").await);
    tell("list beyond the prefix", list("").await);
    let get = async |key| may(&client.get_object().bucket(bucket).key(key).send().await);
    tell("get acme's pack", get(PACK).await);
    tell("get globex's pack", get(OTHERS).await);
    tell("get what the writer put", get(WRITTEN).await);
    tell("get an envelope", get(ENVELOPE).await);
    tell("get a chunk map", get(CHUNKS).await);
    tell("get the ledger", get(LEDGER).await);
    tell("get beyond the prefix", get(OUTSIDE).await);
    let write = async |key| {
        let body = ByteStream::from_static(b"y");
        let put = client.put_object().bucket(bucket).key(key).body(body).object_lock_mode(ObjectLockMode::Compliance);
        may(&put.object_lock_retain_until_date(in_seconds(60)).send().await)
    };
    tell("put", write("shop/tenant/acme/packs/00/new.tar.zst.age").await);
    tell("put into the ledger", write("shop/estate/erasures/new.json").await);
    tell("put beyond the prefix", write("elsewhere/new").await);
    tell("read a lock", may(&client.get_object_retention().bucket(bucket).key(PACK).send().await));

    let fresh = put(owner, bucket, PACK, Some((ObjectLockMode::Compliance, 60))).await;
    let longer = ObjectLockRetention::builder().mode(ObjectLockRetentionMode::Compliance);
    let extend = client.put_object_retention().bucket(bucket).key(PACK).version_id(&fresh);
    tell("extend a lock", may(&extend.retention(longer.retain_until_date(in_seconds(90)).build()).send().await));
    let hold = ObjectLockLegalHold::builder().status(ObjectLockLegalHoldStatus::On).build();
    let held = client.put_object_legal_hold().bucket(bucket).key(PACK).version_id(&fresh).legal_hold(hold);
    tell("set a hold", may(&held.send().await));
    let unlocked = put(owner, bucket, PACK, None).await;
    tell("remove", may(&client.delete_object().bucket(bucket).key(PACK).version_id(unlocked).send().await));
    let governed = put(owner, bucket, PACK, Some((ObjectLockMode::Governance, 60))).await;
    let bypass = client.delete_object().bucket(bucket).key(PACK).version_id(governed);
    tell("bypass governance", may(&bypass.bypass_governance_retention(true).send().await));
    let compliant = put(owner, bucket, PACK, Some((ObjectLockMode::Compliance, 60))).await;
    tell(
        "remove what is locked",
        may(&client.delete_object().bucket(bucket).key(PACK).version_id(compliant).send().await),
    );
    tell("make a delete marker", may(&client.delete_object().bucket(bucket).key("shop/tenant/x").send().await));
    let public = client.put_object_acl().bucket(bucket).key(PACK).acl(ObjectCannedAcl::PublicRead);
    tell("change an object's ACL", may(&public.send().await));

    let suspend = VersioningConfiguration::builder().status(BucketVersioningStatus::Suspended).build();
    let suspend = client.put_bucket_versioning().bucket(bucket).versioning_configuration(suspend);
    tell("suspend versioning", may(&suspend.send().await));
    let other = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).build();
    let configure = client.put_object_lock_configuration().bucket(bucket).object_lock_configuration(other);
    tell("change the lock configuration", may(&configure.send().await));
    tell("change the policy", may(&client.put_bucket_policy().bucket(bucket).policy("{").send().await));
    tell("delete the policy", client_deletes_policy(client, bucket).await);
    tell("change the lifecycle", lifecycle(client, bucket).await);
    tell("delete the bucket", may(&client.delete_bucket().bucket(bucket).send().await));
    found
}

async fn client_deletes_policy(client: &Client, bucket: &str) -> bool {
    may(&client.delete_bucket_policy().bucket(bucket).send().await)
}

async fn lifecycle(client: &Client, bucket: &str) -> bool {
    use aws_sdk_s3::types::{BucketLifecycleConfiguration, ExpirationStatus, LifecycleExpiration, LifecycleRule};
    let filter = aws_sdk_s3::types::LifecycleRuleFilter::builder().prefix("nothing/").build();
    let rule = LifecycleRule::builder().id("a").status(ExpirationStatus::Enabled).filter(filter);
    let rule = rule.expiration(LifecycleExpiration::builder().days(1).build()).build().unwrap();
    let rules = BucketLifecycleConfiguration::builder().rules(rule).build().unwrap();
    may(&client.put_bucket_lifecycle_configuration().bucket(bucket).lifecycle_configuration(rules).send().await)
}

fn expected(name: &str) -> BTreeSet<&'static str> {
    let lists = ["list all", "list acme", "list globex"];
    let clear = ["get an envelope", "get the ledger", "read a lock"];
    let gets = ["get acme's pack", "get globex's pack", "get what the writer put", "get a chunk map"];
    let set = |parts: &[&[&'static str]]| parts.concat().into_iter().collect();
    match name {
        "writer" => set(&[&lists, &clear, &["get a chunk map", "put", "put into the ledger", "extend a lock"]]),
        "reader" | "verifier" => set(&[&lists, &clear, &gets]),
        "reader-acme" => {
            set(&[&["list acme"], &clear, &["get acme's pack", "get what the writer put", "get a chunk map"]])
        }
        "janitor" => set(&[&lists, &clear, &["remove"]]),
        "holder" => set(&[&lists, &clear, &["set a hold"]]),
        "key-eraser" => set(&[&lists, &["get the ledger", "put into the ledger"]]),
        other => panic!("{other}"),
    }
}

#[test]
fn each_role_may_what_it_needs_and_nothing_else() {
    let Some(roles) = Roles::new("each_role_may_what_it_needs_and_nothing_else", &every_grant()) else { return };
    let owner = roles.rgw.client();
    s3::wait(async {
        for key in [PACK, OTHERS, ENVELOPE, CHUNKS, LEDGER, OUTSIDE] {
            put(&owner, &roles.bucket, key, None).await;
        }
        put(&roles.client("writer"), &roles.bucket, WRITTEN, None).await;
    });
    let mut wrong = Vec::new();
    let mut table = BTreeMap::<&str, BTreeMap<String, bool>>::new();
    for name in roles.keys.keys() {
        let client = roles.client(name);
        let found = s3::wait(tried(&client, &owner, &roles.bucket));
        let wanted = expected(name);
        for (operation, may) in found {
            if may != wanted.contains(operation) {
                wrong.push(format!("{name}: {operation}: {}", if may { "allowed" } else { "denied" }));
            }
            table.entry(operation).or_default().insert(name.clone(), may);
        }
    }
    println!("{:<30} {}", "", roles.keys.keys().cloned().collect::<Vec<_>>().join("  "));
    for (operation, by_role) in &table {
        let cells =
            by_role.iter().map(|(name, may)| format!("{:^width$}", if *may { "yes" } else { "-" }, width = name.len()));
        println!("{operation:<30} {}", cells.collect::<Vec<_>>().join("  "));
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn what_doctor_finds_about_a_credential_is_what_it_can() {
    let test = "what_doctor_finds_about_a_credential_is_what_it_can";
    let all: Vec<Grant> = every_grant().into_iter().filter(|grant| grant.role != Role::KeyEraser).collect();
    let Some(roles) = Roles::new(test, &all) else { return };
    let (owner, now) = (roles.rgw.client(), Clock::system().now());
    s3::wait(async {
        put(&owner, &roles.bucket, PACK, None).await;
        put(&owner, &roles.bucket, &format!("{PREFIX}/canary/{STAMP}/shorten"), None).await;
    });
    for role in Role::ALL.into_iter().filter(|role| *role != Role::KeyEraser) {
        let target = roles.target(roles.client(role.name()));
        let found = s3::wait(async move { probe(&target, STAMP, now).await }).unwrap();
        assert_eq!(found.len(), Right::ALL.len(), "{role:?}: not all could be seen: {found:?}");
        assert_eq!(judge(role, &found), [], "{role:?}");
    }
    let target = roles.target(owner.clone());
    let found = s3::wait(async move { probe(&target, STAMP, now).await }).unwrap();
    let too_much: Vec<Complaint> =
        Right::ALL.into_iter().filter(|right| !right.is_needed_by(Role::Writer)).map(Complaint::TooMuch).collect();
    assert_eq!(judge(Role::Writer, &found), too_much);
    // Probing changed nothing: the policy is there, versions are kept, nothing was put or removed.
    s3::wait(async {
        assert!(owner.get_bucket_policy().bucket(&roles.bucket).send().await.is_ok());
        let versioning = owner.get_bucket_versioning().bucket(&roles.bucket).send().await.unwrap();
        assert_eq!(versioning.status, Some(BucketVersioningStatus::Enabled));
        let listed = owner.list_object_versions().bucket(&roles.bucket).send().await.unwrap();
        assert_eq!((listed.versions().len(), listed.delete_markers().len()), (2, 0));
    });
}

#[test]
fn a_writer_that_attacks_the_store_gets_nowhere_and_the_drill_says_what_it_could_not_try() {
    let test = "a_writer_that_attacks_the_store_gets_nowhere_and_the_drill_says_what_it_could_not_try";
    let Some(roles) = Roles::new(test, &[Grant::of(Role::Writer)]) else { return };
    let target = roles.target(roles.client("writer"));
    let locks = Locks { lock: jiff::SignedDuration::from_secs(60), lapse: jiff::SignedDuration::from_secs(2) };
    let now = Clock::system().now();
    let trials = s3::wait(async move { drill(&target, STAMP, now, locks).await }).unwrap();
    let of = |outcome| {
        let names = trials.iter().filter(|trial| trial.outcome == outcome).map(|trial| trial.attack.name());
        names.collect::<Vec<_>>()
    };
    assert_eq!(verdict(&trials), Verdict::Unproven, "{trials:#?}");
    // A refused delete proves nothing about locks where the credential deletes nothing at all.
    let not_tried = [
        "delete-version",
        "delete-many",
        "bypass-delete",
        "suspend-versioning",
        "remove-lock-configuration",
        "delete-held",
    ];
    assert_eq!(of(Outcome::CouldNotTry), not_tried);
    assert_eq!(of(Outcome::Lied), Vec::<&str>::new());
}
