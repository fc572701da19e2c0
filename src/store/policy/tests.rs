//! The policies as values: what each role may, that nobody may more, and that names stay inside the prefix.

use super::*;

fn ground(prefix: &str) -> Ground {
    Ground { bucket: "backups".into(), prefix: prefix.into(), longest_lock_days: 2556, holds: Holds::Backups }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn identity(role: Role, ground: &Ground) -> Vec<Value> {
    let all = printed(Dialect::Aws, &[Grant::of(role)], ground);
    all["identity_policies"][role.name()]["Statement"].as_array().unwrap().clone()
}

fn actions(role: Role, effect: &str) -> Vec<String> {
    let plain = |statement: &Value| statement.get("Condition").is_none() && statement.get("NotResource").is_none();
    let of_effect = |statement: &&Value| statement["Effect"] == effect && plain(statement);
    let statements = identity(role, &ground(""));
    statements.iter().filter(of_effect).flat_map(|statement| texts(&statement["Action"])).collect()
}

#[test]
fn nobody_may_lift_a_lock_or_change_the_bucket_and_everybody_is_told_so_by_name() {
    for role in Role::ALL {
        let (may, never) = (actions(role, "Allow"), actions(role, "Deny"));
        for action in ["BypassGovernanceRetention", "PutBucketPolicy", "PutBucketVersioning", "DeleteObject"] {
            let action = format!("s3:{action}");
            assert!(!may.contains(&action) && never.contains(&action), "{role:?} {action}");
        }
        assert!(may.iter().all(|action| !never.contains(action)), "{role:?} is denied what it is given");
    }
}

#[test]
fn who_removes_does_not_put_and_who_puts_does_not_remove() {
    let may = |role, action: &str| actions(role, "Allow").contains(&format!("s3:{action}"));
    for role in Role::ALL {
        // The eraser adds to the ledger, the holder adds markers, and neither anything else.
        let puts = matches!(role, Role::Writer | Role::KeyEraser | Role::Holder);
        assert_eq!(may(role, "PutObject"), puts, "{role:?}");
        assert_eq!(may(role, "DeleteObjectVersion"), role == Role::Janitor, "{role:?}");
        assert_eq!(may(role, "PutObjectLegalHold"), role == Role::Holder, "{role:?}");
    }
}

#[test]
fn a_writer_reads_envelopes_and_its_chunk_maps_and_nothing_sealed_for_others() {
    let statements = identity(Role::Writer, &ground("shop"));
    let gets = statements.iter().find(|statement| statement["Sid"] == "Get").unwrap();
    let signed = ["*.envelope.json", "*.envelope.json.sig", "estate/erasures/*", "*/holds/*"];
    let clear = signed.into_iter().chain(["*/README*.txt", "*/lay-wal*.sh", "*/recover-set*.sh"]);
    let wanted: Vec<&str> = clear.chain(["*.chunks.age", "canary/*"]).collect();
    let arns: Vec<String> = wanted.iter().map(|pattern| format!("arn:aws:s3:::backups/shop/{pattern}")).collect();
    assert_eq!(texts(&gets["Resource"]), arns);
    // In Ceph it owns what it put: what it may not read is denied, all but the same list.
    let closed = statements.iter().find(|statement| statement["Sid"] == "ReadsNoBackup").unwrap();
    assert_eq!((closed["Effect"].as_str(), texts(&closed["NotResource"])), (Some("Deny"), arns));
}

#[test]
fn in_a_keys_store_whoever_rolls_locks_on_is_bounded_too_and_in_the_store_of_backups_he_has_no_locks_to_bound() {
    let bounded = |role, holds| {
        let ground = Ground { holds, ..ground("") };
        identity(role, &ground).iter().any(|statement| statement["Sid"] == "NotLongerThanNeeded")
    };
    for (role, backups, keys) in [
        (Role::Writer, true, true),
        (Role::Verifier, false, true),
        (Role::Reader, false, false),
        (Role::Janitor, false, false),
    ] {
        assert_eq!((bounded(role, Holds::Backups), bounded(role, Holds::Keys)), (backups, keys), "{role:?}");
    }
}

#[test]
fn a_writer_locks_no_longer_than_the_longest_class_and_in_compliance_mode_only() {
    let statements = identity(Role::Writer, &ground(""));
    let condition = |sid: &str| statements.iter().find(|s| s["Sid"] == sid).unwrap()["Condition"].clone();
    let days = json!({ "NumericGreaterThan": { "s3:object-lock-remaining-retention-days": "2556" } });
    assert_eq!(condition("NotLongerThanNeeded"), days);
    // Of a part of an upload, which has no lock, it must not be true.
    let mode = json!({
        "StringNotEquals": { "s3:object-lock-mode": "COMPLIANCE" },
        "Null": { "s3:object-lock-mode": "false" },
    });
    assert_eq!(condition("ComplianceOnly"), mode);
}

#[test]
fn a_tenants_reader_lists_and_reads_its_own_prefix_its_clusters_and_the_wal() {
    let confined = Confined { tenant: "acme".into(), cluster: "main".into() };
    let grant = Grant { role: Role::Reader, confined: Some(confined) };
    assert_eq!(ceph_user(&grant), "lifeboat-reader-acme");
    let all = printed(Dialect::Ceph, std::slice::from_ref(&grant), &ground("shop"));
    let text = all.to_string();
    // The slash matters: `tenant/acme*` would be acme2's as well.
    for pattern in ["shop/tenant/acme/*", "shop/cluster/main/*", "shop/wal/*"] {
        assert!(text.contains(&format!("\"{pattern}\"")), "{pattern} in {text}");
        assert!(text.contains(&format!("\"arn:aws:s3:::backups/{pattern}\"")), "{pattern} in {text}");
    }
    let statements = all["bucket_policy"]["Statement"].as_array().unwrap();
    let allows = statements.iter().filter(|statement| statement["Effect"] == "Allow");
    let resources: Vec<String> = allows.flat_map(|statement| texts(&statement["Resource"])).collect();
    assert!(!resources.contains(&"arn:aws:s3:::backups/shop/*".to_owned()), "{resources:?}");
}

#[test]
fn listing_stays_inside_the_stores_prefix() {
    let listing = |prefix| identity(Role::Janitor, &ground(prefix)).into_iter().find(|s| s["Sid"] == "List").unwrap();
    assert_eq!(listing("a/b")["Condition"], json!({ "StringLike": { "s3:prefix": ["a/b/*"] } }));
    assert!(listing("").get("Condition").is_none());
}

#[test]
fn in_ceph_every_statement_names_its_user_and_no_two_share_a_sid() {
    let grants: Vec<Grant> = Role::ALL.into_iter().map(Grant::of).collect();
    let all = printed(Dialect::Ceph, &grants, &ground(""));
    let statements = all["bucket_policy"]["Statement"].as_array().unwrap();
    let mut sids: Vec<&str> = statements.iter().map(|statement| statement["Sid"].as_str().unwrap()).collect();
    sids.sort_unstable();
    let count = sids.len();
    sids.dedup();
    assert_eq!(sids.len(), count);
    assert!(sids.iter().all(|sid| sid.bytes().all(|b| b.is_ascii_alphanumeric())), "{sids:?}");
    for statement in statements {
        let principal = statement["Principal"]["AWS"][0].as_str().unwrap();
        assert!(principal.starts_with("arn:aws:iam:::user/lifeboat-"), "{principal}");
    }
}

#[test]
fn in_a_keys_store_nobody_but_the_eraser_removes_and_the_verifier_renews_locks() {
    let keys = Ground { holds: Holds::Keys, ..ground("") };
    let may = |role, action: &str| {
        let statements = identity(role, &keys);
        let allows = statements.iter().filter(|statement| statement["Effect"] == "Allow");
        allows.flat_map(|statement| texts(&statement["Action"])).any(|allowed| allowed == format!("s3:{action}"))
    };
    for role in Role::ALL {
        assert_eq!(may(role, "DeleteObjectVersion"), role == Role::KeyEraser, "{role:?}");
        assert_eq!(may(role, "PutObjectRetention"), matches!(role, Role::Writer | Role::Verifier), "{role:?}");
        assert_eq!(may(role, "PutObject"), role == Role::Writer, "{role:?}");
        assert_eq!(may(role, "ListBucketVersions"), !matches!(role, Role::Janitor | Role::Holder), "{role:?}");
    }
}
