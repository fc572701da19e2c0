//! Which requests a role makes, and which it must never be able to make. One row per right, with who needs it and why.

use serde_json::json;

use super::statement::{Effect, Statement};
use super::{Grant, Ground, confined_patterns};
use crate::ids::Role;

/// Read of every bucket by every role: whether it can keep a lock at all. Says nothing about its content.
const LOOK_AT_BUCKET: [&str; 2] = ["GetBucketVersioning", "GetBucketObjectLockConfiguration"];
/// `ListBucket` besides the listing of versions: without it a missing object is answered with 403 (S3 API, `GetObject`).
const LIST: [&str; 2] = ["ListBucket", "ListBucketVersions"];
const GET: [&str; 2] = ["GetObject", "GetObjectVersion"];
const LOOK_AT_LOCKS: [&str; 2] = ["GetObjectRetention", "GetObjectLegalHold"];
const ERASURES: &str = "estate/erasures/*";
/// What is signed and readable without a key; the writer has its own chunk maps besides, and the canaries of the honesty drill.
const ENVELOPES: [&str; 7] =
    ["*.envelope.json", "*.envelope.json.sig", ERASURES, HOLDS, "*/README*.txt", "*/lay-wal*.sh", "*/recover-set*.sh"];
/// Markers of open holds.
const HOLDS: &str = "*/holds/*";
const CHUNK_MAPS: &str = "*.chunks.age";
const CANARIES: &str = "canary/*";

/// What nobody's credential may do to the bucket: each would undo locks, or hide what is locked.
const NEVER_ON_BUCKET: [&str; 9] = [
    "PutBucketPolicy",
    "DeleteBucketPolicy",
    "PutBucketVersioning",
    "PutLifecycleConfiguration",
    "PutBucketObjectLockConfiguration",
    "PutReplicationConfiguration",
    "PutBucketAcl",
    "PutBucketPublicAccessBlock",
    "DeleteBucket",
];
/// The same of objects. `DeleteObject` without a version makes a delete marker.
const NEVER_ON_OBJECTS: [&str; 4] =
    ["BypassGovernanceRetention", "DeleteObject", "PutObjectAcl", "PutObjectVersionAcl"];

/// What the role's commands need.
pub(super) fn allowed(grant: &Grant, ground: &Ground) -> Vec<Statement> {
    let all = vec!["*".to_owned()];
    let clear: Vec<String> = ENVELOPES.iter().map(|&pattern| pattern.to_owned()).collect();
    let mut list = vec![bucket("LookAtBucket", &LOOK_AT_BUCKET, ground), listing(grant, ground)];
    let mut may = |sid, actions: &[&'static str], patterns: &[String]| list.push(on(sid, actions, patterns, ground));
    match grant.role {
        Role::Writer => {
            may("Get", &GET, &writers_own());
            may("LookAtLocks", &LOOK_AT_LOCKS, &all);
            may("Put", &["PutObject", "PutObjectRetention", "AbortMultipartUpload"], &all);
        }
        Role::Reader => {
            let patterns = grant.confined.as_ref().map_or_else(|| all.clone(), confined_patterns);
            may("Get", &GET, &patterns);
            may("LookAtLocks", &LOOK_AT_LOCKS, &patterns);
        }
        Role::Janitor => {
            may("Get", &GET, &clear);
            may("LookAtLocks", &LOOK_AT_LOCKS, &all);
            may("Remove", &["DeleteObjectVersion"], &all);
        }
        Role::Verifier => {
            may("Get", &GET, &all);
            may("LookAtLocks", &LOOK_AT_LOCKS, &all);
        }
        Role::Holder => {
            may("Get", &GET, &clear);
            may("LookAtLocks", &LOOK_AT_LOCKS, &all);
            may("Hold", &["PutObjectLegalHold"], &all);
            may("Mark", &["PutObject", "PutObjectRetention"], &[HOLDS.to_owned()]);
        }
        Role::KeyEraser => {
            let ledger = [ERASURES.to_owned()];
            may("Get", &GET, &ledger);
            may("LookAtLocks", &LOOK_AT_LOCKS, &ledger);
            may("Record", &["PutObject", "PutObjectRetention"], &ledger);
        }
    }
    list
}

/// The same in a keys store. Whoever may read a key file there still cannot open it.
pub(super) fn allowed_with_keys(grant: &Grant, ground: &Ground) -> Vec<Statement> {
    if matches!(grant.role, Role::Janitor | Role::Holder) {
        return Vec::new();
    }
    let all = ["*".to_owned()];
    let mut list = vec![bucket("LookAtBucket", &LOOK_AT_BUCKET, ground), listing(grant, ground)];
    list.push(on("Get", &GET, &all, ground));
    list.push(on("LookAtLocks", &LOOK_AT_LOCKS, &all, ground));
    match grant.role {
        Role::Writer => list.push(on("Put", &["PutObject", "PutObjectRetention"], &all, ground)),
        Role::Verifier => list.push(on("Renew", &["PutObjectRetention"], &all, ground)),
        Role::KeyEraser => list.push(on("Remove", &["DeleteObjectVersion"], &all, ground)),
        Role::Reader | Role::Janitor | Role::Holder => {}
    }
    list
}

/// What the role must not do whatever else is granted to it: all that only others need.
pub(super) fn never(allowed: &[Statement], ground: &Ground) -> Statement {
    let needs = |action: &&str| allowed.iter().any(|statement| statement.actions.contains(action));
    let others = ["DeleteObjectVersion", "PutObjectLegalHold", "PutObject", "PutObjectRetention"];
    let others = others.into_iter().filter(|action| !needs(action));
    Statement {
        sid: "Never",
        effect: Effect::Deny,
        actions: NEVER_ON_BUCKET.into_iter().chain(NEVER_ON_OBJECTS).chain(others).collect(),
        resources: vec![ground.bucket_arn(), format!("{}/*", ground.bucket_arn())],
        all_but: false,
        condition: None,
    }
}

/// What is closed to a role that puts, although it may put it: in Ceph an object belongs to whoever put it, and its owner
/// reads it whatever no policy grants (seen: RGW 20). Only a denial closes it.
pub(super) fn unread(ground: &Ground) -> Statement {
    let resources = writers_own().iter().map(|pattern| ground.objects(pattern)).collect();
    let actions = GET.to_vec();
    Statement { sid: "ReadsNoBackup", effect: Effect::Deny, actions, resources, all_but: true, condition: None }
}

fn writers_own() -> Vec<String> {
    ENVELOPES.iter().copied().chain([CHUNK_MAPS, CANARIES]).map(str::to_owned).collect()
}

/// What nobody may in this bucket, an administrator included: he would have to change this policy first, which shows.
/// The policy itself is not denied, or only the account's root could ever correct it.
pub(super) fn nobody(ground: &Ground) -> Statement {
    let stays = |action: &&str| !["PutBucketPolicy", "DeleteBucketPolicy"].contains(action);
    let bucket = NEVER_ON_BUCKET.into_iter().filter(stays);
    Statement {
        sid: "NobodyUndoesLocks",
        effect: Effect::Deny,
        actions: bucket.chain(["BypassGovernanceRetention", "DeleteObject"]).collect(),
        resources: vec![ground.bucket_arn(), format!("{}/*", ground.bucket_arn())],
        all_but: false,
        condition: None,
    }
}

/// A stolen writer must not fill the bucket with what can never be removed, nor lock in a mode that somebody can lift.
/// `Null`: the parts of a multipart upload carry no lock of their own (S3 API, `UploadPart`), and a negated operator, with `IfExists` too, is true
/// of what is absent (IAM User Guide, "condition operators").
pub(super) fn bounded_locks(ground: &Ground) -> Vec<Statement> {
    let deny = |sid, condition| Statement {
        sid,
        effect: Effect::Deny,
        actions: vec!["PutObject", "PutObjectRetention"],
        resources: vec![ground.objects("*")],
        all_but: false,
        condition: Some(condition),
    };
    let days = ground.longest_lock_days.to_string();
    vec![
        deny(
            "NotLongerThanNeeded",
            json!({ "NumericGreaterThan": { "s3:object-lock-remaining-retention-days": days } }),
        ),
        deny(
            "ComplianceOnly",
            json!({
                "StringNotEquals": { "s3:object-lock-mode": "COMPLIANCE" },
                "Null": { "s3:object-lock-mode": "false" },
            }),
        ),
    ]
}

fn listing(grant: &Grant, ground: &Ground) -> Statement {
    let mut statement = bucket("List", &LIST, ground);
    let prefixes: Vec<String> = match &grant.confined {
        Some(confined) => confined_patterns(confined).iter().map(|pattern| ground.key(pattern)).collect(),
        None if ground.prefix.is_empty() => return statement,
        None => vec![ground.key("*")],
    };
    statement.condition = Some(json!({ "StringLike": { "s3:prefix": prefixes } }));
    statement
}

fn bucket(sid: &'static str, actions: &[&'static str], ground: &Ground) -> Statement {
    let (actions, resources) = (actions.to_vec(), vec![ground.bucket_arn()]);
    Statement { sid, effect: Effect::Allow, actions, resources, all_but: false, condition: None }
}

fn on(sid: &'static str, actions: &[&'static str], patterns: &[String], ground: &Ground) -> Statement {
    let resources = patterns.iter().map(|pattern| ground.objects(pattern)).collect();
    Statement { sid, effect: Effect::Allow, actions: actions.to_vec(), resources, all_but: false, condition: None }
}
