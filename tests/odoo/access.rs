//! Rosters: what is captured equals what is known, has no secret, and every change is told.

use std::collections::BTreeSet;

use jiff::Timestamp;
use lifeboat::access::compare::{Class, Difference, compare};
use lifeboat::access::reader::Keyed;
use lifeboat::access::roster::{Credential, CredentialKind, Person, Roster};
use lifeboat::access::{AccessError, Capture, odoo, postgres};
use serde_json::Value;
use sqlx::PgConnection;

use crate::server::{Server, data, json, sql};

const KEY: &[u8; 32] = b"a key for the rosters of a test!";

/// In the fixtures' time: the keys' expiry dates are measured from it.
fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn asked() -> Capture<'static> {
    Capture { tenant: Some("test"), key: Keyed(KEY), captured_at: noon(), as_of: noon() }
}

async fn capture(connection: &mut PgConnection) -> Roster {
    odoo::capture(connection, asked()).await.unwrap()
}

fn of(person: &Person, kind: CredentialKind) -> Vec<&Credential> {
    person.credentials.iter().filter(|credential| credential.kind == kind).collect()
}

/// The names of `expected.json`: `custom:NAME` for `group:NAME#id`.
fn custom(groups: &BTreeSet<String>) -> BTreeSet<String> {
    let name = |group: &String| match group.strip_prefix("group:").and_then(|group| group.rsplit_once('#')) {
        Some((name, _)) => format!("custom:{name}"),
        None => group.clone(),
    };
    groups.iter().map(name).collect()
}

fn names(value: &Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn check_person(person: &Person, expected: &Value) {
    let who = &person.login;
    assert_eq!(person.active, expected["active"], "{who}");
    assert_eq!(custom(&person.groups), names(&expected["groups_explicit"]), "{who}");
    assert_eq!(custom(&person.effective), names(&expected["groups_effective"]), "{who}");
    let password = of(person, CredentialKind::Password);
    assert_eq!(!password.is_empty(), expected["has_password"], "{who}");
    let rounds = password.first().map(|password| password.strength.as_ref().unwrap().rounds.to_string());
    assert_eq!(rounds.as_deref(), expected["password_rounds"].as_str(), "{who}");
    assert_eq!(!of(person, CredentialKind::Totp).is_empty(), expected["has_totp"], "{who}");
    assert_eq!(!of(person, CredentialKind::OauthLink).is_empty(), !expected["oauth_uid"].is_null(), "{who}");
    assert_eq!(!of(person, CredentialKind::OauthToken).is_empty(), expected["has_oauth_access_token"], "{who}");
    assert_eq!(of(person, CredentialKind::TrustedDevice).len(), expected["trusted_devices"], "{who}");
    let keys: BTreeSet<_> = of(person, CredentialKind::ApiKey).into_iter().map(|key| (&key.name, &key.scope)).collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let wanted: Vec<_> =
        expected["api_keys"].as_array().unwrap().iter().map(|key| (text(&key["name"]), text(&key["scope"]))).collect();
    assert_eq!(keys, wanted.iter().map(|(name, scope)| (name, scope)).collect(), "{who}");
}

#[tokio::test]
async fn everybody_is_captured_with_the_groups_and_credentials_that_were_expected() {
    let server = Server::start();
    for tenant in ["initech", "acme", "globex"] {
        if data(tenant).is_none() {
            continue;
        }
        let expected = json(tenant, "expected");
        let roster = capture(&mut server.connect(&server.database(tenant)).await).await;
        let people = expected["identity"].as_array().unwrap();
        assert_eq!(roster.people.len(), people.len(), "{tenant}");
        for person in &roster.people {
            check_person(person, people.iter().find(|p| p["login"] == person.login).unwrap());
        }
        let count = |kind: &str| roster.policies.iter().filter(|policy| policy.kind == kind).count();
        let active = |kind: &str| roster.policies.iter().filter(|policy| policy.kind == kind && policy.active).count();
        assert_eq!(count("record rule"), expected["other"]["rules"], "{tenant}");
        assert_eq!(count("model access"), expected["other"]["model_access"], "{tenant}");
        assert_eq!(active("oauth provider"), expected["other"]["oauth_enabled"], "{tenant}");
        assert_eq!(active("outgoing mail server"), expected["other"]["mail_servers_active"], "{tenant}");
        assert_eq!(roster.facts["modules_installed"], expected["other"]["modules_installed"].to_string(), "{tenant}");
        assert!(roster.lsn.is_some() && roster.facts["odoo_version"].starts_with("19.0"));
    }
}

/// Every secret of a tenant that its fixtures and its database know of.
async fn secrets(connection: &mut PgConnection, tenant: &str) -> Vec<String> {
    let mut secrets: Vec<String> = sqlx::query_scalar(
        "SELECT s FROM (SELECT password s FROM res_users UNION SELECT totp_secret FROM res_users \
         UNION SELECT oauth_access_token FROM res_users UNION SELECT oauth_uid FROM res_users \
         UNION SELECT key FROM res_users_apikeys UNION SELECT index FROM res_users_apikeys \
         UNION SELECT key FROM auth_totp_device UNION SELECT smtp_pass FROM ir_mail_server \
         UNION SELECT value FROM ir_config_parameter WHERE key ~ 'secret|uuid|token') x WHERE s <> ''",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    fn walk(value: &Value, secrets: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, secrets)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    if ["password", "key", "totp_secret", "secret"].contains(&name.as_str())
                        && let Some(text) = value.as_str().filter(|text| text.len() > 5 && !text.contains('.'))
                    {
                        secrets.push(text.to_owned());
                    }
                    walk(value, secrets);
                }
            }
            _ => {}
        }
    }
    walk(&json(tenant, "fixtures"), &mut secrets);
    secrets
}

#[tokio::test]
async fn no_secret_is_in_a_roster_and_equal_states_give_equal_bytes() {
    let server = Server::start();
    let mut connection = server.connect(&server.copy()).await;
    sql(
        &mut connection,
        "UPDATE res_users SET password = 'stored-in-clear', totp_secret = 'TOTPSECRETINCLEAR', oauth_uid = 'subject-4711', \
           oauth_access_token = 'token-4711' WHERE login = 'bill@initech.test'; \
         UPDATE auth_oauth_provider SET validation_endpoint = 'https://me:endpoint-pass@idp.test/x?k=endpoint-key'; \
         UPDATE ir_config_parameter SET value = 'https://me:url-pass@erp.test' WHERE key = 'web.base.url'",
    )
    .await;
    let text = serde_json::to_string(&capture(&mut connection).await).unwrap();
    let mut secrets = secrets(&mut connection, "initech").await;
    secrets.extend(["endpoint-pass", "endpoint-key", "url-pass"].map(str::to_owned));
    assert!(secrets.len() > 15, "{}", secrets.len());
    for secret in &secrets {
        assert!(!text.contains(secret.as_str()), "{secret} is in the roster");
    }
    assert!(text.contains(r#""scheme":"plain""#), "a password in clear is told as such");
    let mut again = capture(&mut connection).await;
    again.lsn = None;
    let mut first: Roster = serde_json::from_str(&text).unwrap();
    first.lsn = None;
    assert_eq!(serde_json::to_string(&first).unwrap(), serde_json::to_string(&again).unwrap());
}

fn told(differences: &[Difference], class: Class, who: &str, what: &str) {
    let found =
        differences.iter().any(|d| d.class == class && d.who == who && (d.what == what || d.detail.contains(what)));
    let about: Vec<_> = differences.iter().filter(|d| d.who == who).collect();
    assert!(found, "{class:?} {who} {what} is not among {about:#?}");
}

#[tokio::test]
async fn everything_that_happened_between_acme_and_acme_later_is_told_in_both_directions() {
    if data("acme-later").is_none() {
        return;
    }
    let server = Server::start();
    let before = capture(&mut server.connect(&server.database("acme")).await).await;
    let mut after = capture(&mut server.connect(&server.database("acme-later")).await).await;
    after.as_of = "2026-11-22T13:00:00Z".parse().unwrap();
    let there = compare(&before, &after).unwrap();
    let rule = "rule:Dispatchers: outgoing transfers only#216";
    for (class, who, what) in [
        (Class::Loss, "dora.dispatch@acme.test", "user"),
        (Class::Loss, "wanda.warehouse@acme.test", "API key 'handheld scanner'"),
        (Class::Gain, "wanda.warehouse@acme.test", "API key 'handheld scanner 2'"),
        (Class::Changed, "sam.sales@acme.test", "password"),
        (Class::Loss, "dimitri.dispatch@acme.test", "in group group:Dispatcher#"),
        (Class::Gain, "dimitri.dispatch@acme.test", "in group group:Finance Approver#"),
        (Class::Changed, "felix.finance@acme.test", "second factor (TOTP)"),
        (Class::Loss, "felix.finance@acme.test", "trusted device"),
        (Class::Gain, "hanna.hr@acme.test", "group base.group_system"),
        (Class::Gain, "nina.new@acme.test", "user"),
        (Class::Changed, rule, "('company_id', 'in', company_ids)"),
        (Class::Changed, "acme.carrier_api_token", "value of parameter"),
    ] {
        told(&there, class, who, what);
    }
    let said = |what: &str| there.iter().any(|d| d.class == Class::Changed && d.detail.contains(what));
    assert!(said("oauth provider 'Acme SSO' was \"odoo-acme\" and is \"odoo-acme-v2\""), "{there:#?}");
    assert!(said("smtp_pass of outgoing mail server 'Acme outgoing' was replaced"));
    let back = compare(&after, &before).unwrap();
    for (class, who, what) in [
        (Class::Gain, "dora.dispatch@acme.test", "user"),
        (Class::Gain, "wanda.warehouse@acme.test", "API key 'handheld scanner'"),
        (Class::Stale, "sam.sales@acme.test", "password"),
        (Class::Stale, "felix.finance@acme.test", "second factor (TOTP)"),
        (Class::Gain, "felix.finance@acme.test", "trusted device"),
        (Class::Loss, "hanna.hr@acme.test", "group base.group_system"),
        (Class::Loss, "nina.new@acme.test", "user"),
        (Class::Stale, "acme.carrier_api_token", "parameter"),
    ] {
        told(&back, class, who, what);
    }
    let concerned: BTreeSet<&str> = there.iter().map(|d| d.who.as_str()).filter(|who| who.ends_with(".test")).collect();
    assert_eq!(concerned.len(), 7, "nobody else is spoken of: {concerned:?}");
}

/// Defects put into a restored database on purpose, and what must be told of each.
const MUTATIONS: &[(&str, Class, &str, &str)] = &[
    (
        "UPDATE res_users SET active = true WHERE login = 'milton@initech.test'",
        Class::Gain,
        "milton@initech.test",
        "user",
    ),
    (
        "INSERT INTO res_groups_users_rel (gid, uid) SELECT d.res_id, u.id FROM ir_model_data d, res_users u \
         WHERE d.module = 'base' AND d.name = 'group_system' AND u.login = 'peter@initech.test'",
        Class::Gain,
        "peter@initech.test",
        "group base.group_system",
    ),
    (
        "DELETE FROM res_groups_users_rel WHERE uid = (SELECT id FROM res_users WHERE login = 'bill@initech.test') \
         AND gid = (SELECT res_id FROM ir_model_data WHERE module = 'base' AND name = 'group_erp_manager')",
        Class::Loss,
        "bill@initech.test",
        "group base.group_erp_manager",
    ),
    (
        "INSERT INTO res_groups_implied_rel (gid, hid) SELECT a.res_id, b.res_id FROM ir_model_data a, ir_model_data b \
         WHERE a.module = 'base' AND a.name = 'group_portal' AND b.module = 'base' AND b.name = 'group_erp_manager'",
        Class::Gain,
        "temp@initech.test",
        "group base.group_erp_manager",
    ),
    (
        "UPDATE res_users SET totp_secret = NULL WHERE login = 'peter@initech.test'",
        Class::Downgrade,
        "peter@initech.test",
        "second factor (TOTP)",
    ),
    (
        "UPDATE res_users SET password = replace(password, '$600000$', '$12$') WHERE login = 'peter@initech.test'",
        Class::Downgrade,
        "peter@initech.test",
        "password",
    ),
    (
        "UPDATE res_users SET password = 'guest' WHERE login = 'peter@initech.test'",
        Class::Downgrade,
        "peter@initech.test",
        "kept as plain",
    ),
    (
        "INSERT INTO res_users_apikeys (name, user_id, index, key) SELECT 'back', id, '12345678', 'x' FROM res_users \
         WHERE login = 'temp@initech.test'",
        Class::Gain,
        "temp@initech.test",
        "API key 'back'",
    ),
    (
        "UPDATE res_users_apikeys SET user_id = 2 WHERE name = 'report script'",
        Class::Gain,
        "admin",
        "API key 'report script'",
    ),
    (
        "UPDATE auth_oauth_provider SET enabled = true WHERE name = 'Initech Google'",
        Class::Gain,
        "everyone",
        "oauth provider 'Initech Google'",
    ),
    (
        "UPDATE auth_oauth_provider SET validation_endpoint = 'https://evil.test' WHERE name = 'Initech Google'",
        Class::Changed,
        "4",
        "validation_endpoint",
    ),
    (
        "UPDATE ir_rule SET domain_force = '[(1, ''='', 1)]' WHERE name = 'Clerks: own contacts'",
        Class::Changed,
        "rule:Clerks: own contacts#70",
        "domain_force",
    ),
    (
        "UPDATE ir_rule SET active = false WHERE id = (SELECT min(id) FROM ir_rule WHERE global)",
        Class::Gain,
        "everyone",
        "restricts nobody any more",
    ),
    (
        "INSERT INTO ir_model_access (name, model_id, active, perm_read, perm_write) SELECT 'open', id, true, true, true \
         FROM ir_model WHERE model = 'res.users'",
        Class::Gain,
        "everyone",
        "read res.users and write res.users",
    ),
    (
        "UPDATE ir_config_parameter SET value = 'x' WHERE key = 'database.secret'",
        Class::Changed,
        "database.secret",
        "value of parameter",
    ),
    (
        "UPDATE ir_config_parameter SET value = 'b2c-open' WHERE key = 'auth_signup.invitation_scope'",
        Class::Changed,
        "auth_signup.invitation_scope",
        "b2c-open",
    ),
    ("UPDATE res_users SET active = false WHERE login = 'bill@initech.test'", Class::Loss, "bill@initech.test", "user"),
];

#[tokio::test]
async fn every_defect_put_in_on_purpose_is_told() {
    let server = Server::start();
    let mut connection = server.connect(&server.copy()).await;
    sql(
        &mut connection,
        "INSERT INTO ir_config_parameter (key, value) VALUES ('auth_signup.invitation_scope', 'b2b') ON CONFLICT DO NOTHING",
    )
    .await;
    // One after the other, each compared with the state before it.
    let mut before = capture(&mut connection).await;
    for (mutation, class, who, what) in MUTATIONS {
        sql(&mut connection, mutation).await;
        let after = capture(&mut connection).await;
        told(&compare(&before, &after).unwrap(), *class, who, what);
        before = after;
    }
}

#[tokio::test]
async fn a_hostile_database_is_refused_and_nothing_of_it_is_run() {
    let server = Server::start();
    let mut connection = server.connect(&server.copy()).await;
    sql(
        &mut connection,
        // A sequence keeps what was taken from it, whatever the transaction's end, and refuses in a read-only one.
        "CREATE SEQUENCE public.ran; \
         CREATE FUNCTION public.spy(text) RETURNS text LANGUAGE sql AS $$ SELECT nextval('public.ran')::text $$; \
         CREATE TYPE public.trap AS ENUM ('x'); \
         CREATE FUNCTION public.as_json(public.trap) RETURNS json LANGUAGE sql AS $$ SELECT public.spy('')::json $$; \
         CREATE CAST (public.trap AS json) WITH FUNCTION public.as_json(public.trap); \
         ALTER TABLE res_users ADD COLUMN baited public.trap DEFAULT 'x'; \
         CREATE FUNCTION public.encode(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT public.spy('') $$; \
         CREATE FUNCTION public.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT public.spy('')::bytea $$",
    )
    .await;
    sql(&mut connection, "SELECT to_jsonb('x'::public.trap); SELECT setval('public.ran', 1, false)").await;
    sql(&mut connection, "SET search_path = public, pg_catalog").await;
    let roster = capture(&mut connection).await;
    let users = roster.omitted.iter().find(|omitted| omitted.table == "res_users").unwrap();
    assert!(users.columns.contains("baited"), "it is named as left out");
    sql(&mut connection, "ALTER TABLE res_users DROP COLUMN login, ADD COLUMN login public.trap DEFAULT 'x'").await;
    let strange = odoo::capture(&mut connection, asked()).await;
    assert!(matches!(&strange, Err(AccessError::Strange { table }) if table == "res_users.login"), "{strange:?}");
    sql(
        &mut connection,
        "ALTER TABLE res_users_apikeys RENAME TO real_keys; \
         CREATE VIEW res_users_apikeys AS SELECT public.spy(name::text) AS name FROM real_keys; \
         ALTER TABLE res_users DROP COLUMN login, ADD COLUMN login text",
    )
    .await;
    let strange = odoo::capture(&mut connection, asked()).await;
    assert!(matches!(&strange, Err(AccessError::Strange { table }) if table == "res_users_apikeys"), "{strange:?}");
    let ran: bool = sqlx::query_scalar("SELECT is_called FROM public.ran").fetch_one(&mut connection).await.unwrap();
    assert!(!ran);
}

#[tokio::test]
async fn rows_hidden_by_row_level_security_are_an_error_and_not_a_smaller_roster() {
    let server = Server::start();
    let database = server.copy();
    let mut superuser = server.connect(&database).await;
    sql(
        &mut superuser,
        "ALTER TABLE res_users ENABLE ROW LEVEL SECURITY; \
         DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
    )
    .await;
    let mut reader = server.connect_as(&database, "reader").await;
    assert!(matches!(odoo::capture(&mut reader, asked()).await, Err(AccessError::Sql(_))));
    sql(&mut superuser, "ALTER TABLE res_users DISABLE ROW LEVEL SECURITY").await;
    let roster = capture(&mut reader).await;
    assert_eq!(roster.facts["captured_as_superuser"], "false");
    assert_eq!(compare(&capture(&mut superuser).await, &roster).unwrap(), []);
}

#[tokio::test]
async fn a_database_that_is_not_odoo_is_told_as_such_and_the_connection_stays_usable() {
    let server = Server::start();
    let mut connection = server.connect(&server.empty("nothing_here")).await;
    assert!(matches!(odoo::capture(&mut connection, asked()).await, Err(AccessError::NotOdoo { .. })));
    sql(&mut connection, "CREATE TABLE usable (x int)").await;
}

#[tokio::test]
async fn roles_that_reach_a_tenants_database_are_captured_and_their_changes_told() {
    let server = Server::start();
    let database = server.empty("owned");
    let mut connection = server.connect(&database).await;
    sql(
        &mut connection,
        "ALTER DATABASE owned OWNER TO odoo_initech; CREATE ROLE ops LOGIN PASSWORD 'ops-password'; \
         CREATE ROLE bystander LOGIN; GRANT odoo_initech TO ops; ALTER ROLE odoo_initech SET app.secret = 'in-a-setting'",
    )
    .await;
    let before = postgres::capture(&mut connection, asked(), &["owned"]).await.unwrap();
    let logins: BTreeSet<&str> = before.people.iter().map(|person| person.login.as_str()).collect();
    assert_eq!(logins, BTreeSet::from(["odoo_initech", "ops", "postgres"]));
    assert_eq!(before.facts["bootstrap_superuser"], "postgres");
    let text = serde_json::to_string(&before).unwrap();
    assert!(!text.contains("SCRAM") && !text.contains("in-a-setting") && !text.contains("ops-password"));
    sql(
        &mut connection,
        "ALTER ROLE ops SUPERUSER PASSWORD 'md5aaaabbbbccccddddaaaabbbbccccdddd'; ALTER ROLE odoo_initech NOLOGIN; \
         GRANT odoo_initech TO bystander; ALTER ROLE odoo_initech SET app.secret = 'another'",
    )
    .await;
    let after = postgres::capture(&mut connection, asked(), &["owned"]).await.unwrap();
    let differences = compare(&before, &after).unwrap();
    told(&differences, Class::Gain, "ops", "group attribute superuser");
    told(&differences, Class::Downgrade, "ops", "password");
    told(&differences, Class::Loss, "odoo_initech", "user");
    told(&differences, Class::Gain, "bystander", "user");
    told(&differences, Class::Changed, "odoo_initech/*/app.secret", "value");
    sql(&mut connection, "DROP OWNED BY ops, bystander; DROP ROLE ops, bystander; ALTER ROLE odoo_initech LOGIN; ALTER ROLE odoo_initech RESET ALL").await;
}
