//! The PostgreSQL layer: a cluster's roles, what they are members of, and which databases they own.
//!
//! Roles are shared by all databases, so a tenant's roster holds the roles that matter to his databases: their owners, who can act
//! as those, what those are members of, and every superuser. Roles go by name: a load into another cluster changes their
//! oids. An attribute (`superuser`, `createdb`…) counts as a group, and comes with membership, because a member can `SET ROLE`. A
//! verifier (`pg_authid.rolpassword`) is hashed by the server and keyed here; only a superuser sees it (`facts`, `verifiers`).
//! Source: PostgreSQL, System Catalogs: `pg_authid`, `pg_auth_members`, `pg_database`, `pg_db_role_setting`.
//!
//! It says nothing of rights on tables, of `pg_hba.conf`, or of who may connect from where.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::reader::Reader;
use super::roster::{
    Credential, CredentialKind, Effect, FORMAT, Group, Person, PersonKind, Policy, Roster, Strength, closure,
};
use super::{AccessError, Capture};

/// The oid of the role that `initdb` made (PostgreSQL `BOOTSTRAP_SUPERUSERID`).
const BOOTSTRAP: i64 = 10;

/// Captures the roles that matter to `databases`, or all of them where that is empty.
///
/// # Errors
/// When the catalogs cannot be read.
pub async fn capture(
    connection: &mut PgConnection,
    asked: Capture<'_>,
    databases: &[&str],
) -> Result<Roster, AccessError> {
    let roster = read(connection, asked, databases).await;
    if roster.is_err() {
        // The first error is the one to tell; a connection that cannot roll back is closed by its owner.
        let _ = sqlx::query("ROLLBACK").execute(connection).await;
    }
    roster
}

async fn read(connection: &mut PgConnection, asked: Capture<'_>, databases: &[&str]) -> Result<Roster, AccessError> {
    let mut reader = Reader::begin(connection, asked.key, &[]).await?;
    let (mut people, mut facts) = roles(&mut reader).await?;
    let implies = memberships(&mut reader, &people).await?;
    owned(&mut reader, &mut people).await?;
    let mut people: Vec<Person> = people.into_values().collect();
    for person in &mut people {
        person.groups = implies.get(&person.id).cloned().unwrap_or_default();
        person.effective = closure(&person.groups, &implies);
    }
    let kept = relevant(&people, databases);
    people.retain(|person| kept.contains(&person.id));
    let group = |(name, implies): (&String, &BTreeSet<String>)| Group {
        name: name.clone(),
        implies: implies.clone(),
        attributes: BTreeMap::new(),
    };
    let groups = implies.iter().filter(|(name, _)| kept.contains(*name)).map(group).collect();
    let policies = settings(&mut reader, &kept, databases).await?;
    facts.insert("server_version".to_owned(), reader.server_version.clone());
    let roster = Roster {
        format: FORMAT,
        layer: "postgres".to_owned(),
        tenant: asked.tenant.map(str::to_owned),
        database: None,
        captured_at: asked.captured_at,
        as_of: asked.as_of,
        lsn: reader.lsn,
        key_check: asked.key.check(),
        facts,
        people,
        groups,
        policies,
        omitted: reader.finish().await?,
    };
    Ok(roster.sorted())
}

const ROLES: &str = "SELECT oid::bigint, rolname::text, rolcanlogin, array_remove(ARRAY[ \
       CASE WHEN rolsuper THEN 'superuser' END, CASE WHEN rolcreaterole THEN 'createrole' END, \
       CASE WHEN rolcreatedb THEN 'createdb' END, CASE WHEN rolreplication THEN 'replication' END, \
       CASE WHEN rolbypassrls THEN 'bypassrls' END], NULL), \
     CASE WHEN rolvaliduntil = '-infinity' THEN '0001-01-01T00:00:00Z' WHEN isfinite(rolvaliduntil) \
       THEN to_char(rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') END, ";

/// Roles with their verifiers; only a superuser may.
const WITH_VERIFIERS: &str = "encode(sha256(convert_to(nullif(rolpassword, ''), 'UTF8')), 'hex'), \
     CASE WHEN rolpassword LIKE 'SCRAM-SHA-256$%' THEN 'scram-sha-256' \
       WHEN rolpassword ~ '^md5[0-9a-f]{32}$' THEN 'md5' WHEN rolpassword <> '' THEN 'other' END, \
     substring(rolpassword from '^SCRAM-SHA-256\\$([0-9]{1,9}):') FROM pg_authid";

/// Roles as everybody sees them.
const WITHOUT: &str = "NULL::text, NULL::text, NULL::text FROM pg_roles";

async fn roles(reader: &mut Reader<'_>) -> Result<(BTreeMap<i64, Person>, BTreeMap<String, String>), AccessError> {
    let may = reader.catalog("SELECT has_table_privilege('pg_authid', 'SELECT')").await?;
    let sees = may.first().map(|row| row.try_get::<bool, _>(0)).transpose()?.unwrap_or(false);
    let rows = reader.catalog_of(&[ROLES, if sees { WITH_VERIFIERS } else { WITHOUT }]).await?;
    let mut people = BTreeMap::new();
    let mut facts = BTreeMap::new();
    facts.insert("verifiers".to_owned(), if sees { "taken" } else { "not visible to this role" }.to_owned());
    for row in rows {
        let (oid, person) = role(reader, &row)?;
        if oid == BOOTSTRAP {
            facts.insert("bootstrap_superuser".to_owned(), person.id.clone());
        }
        people.insert(oid, person);
    }
    Ok((people, facts))
}

fn role(reader: &Reader<'_>, row: &PgRow) -> Result<(i64, Person), AccessError> {
    let oid: i64 = row.try_get(0)?;
    let name: String = row.try_get(1)?;
    let attributes: Vec<String> = row.try_get(3)?;
    let sum: Option<String> = row.try_get(5)?;
    let rounds = row.try_get::<Option<String>, _>(7)?.and_then(|rounds| rounds.parse().ok()).unwrap_or(0);
    let strength = row.try_get::<Option<String>, _>(6)?.map(|scheme| Strength { scheme, rounds });
    let expires = row.try_get::<Option<String>, _>(4)?.and_then(|time| time.parse::<Timestamp>().ok());
    let verifier = sum.map(|sum| Credential {
        kind: CredentialKind::Password,
        id: None,
        name: None,
        digest: Some(reader.digest("pg_authid.rolpassword", sum.as_bytes())),
        scope: None,
        expires,
        strength,
    });
    let system = oid == BOOTSTRAP || name.starts_with("pg_");
    let person = Person {
        id: name.clone(),
        login: name,
        active: row.try_get(2)?,
        kind: if system { PersonKind::System } else { PersonKind::Internal },
        groups: attributes.into_iter().map(|attribute| format!("attribute {attribute}")).collect(),
        effective: BTreeSet::new(),
        places: BTreeSet::new(),
        credentials: verifier.into_iter().collect(),
    };
    Ok((oid, person))
}

/// What each role has in one step: its attributes, and the roles it can act as. `inherit_option` and `set_option` are
/// PostgreSQL 16's; a membership with neither gives only what `admin_option` says.
async fn memberships(
    reader: &mut Reader<'_>,
    people: &BTreeMap<i64, Person>,
) -> Result<BTreeMap<String, BTreeSet<String>>, AccessError> {
    let mut implies: BTreeMap<String, BTreeSet<String>> = people
        .values()
        .filter(|person| !person.groups.is_empty())
        .map(|person| (person.id.clone(), person.groups.clone()))
        .collect();
    let rows = reader
        .catalog(
            "SELECT member::bigint, roleid::bigint, admin_option, \
             coalesce((to_jsonb(m)->>'inherit_option')::bool, true) \
             OR coalesce((to_jsonb(m)->>'set_option')::bool, true) FROM pg_auth_members m",
        )
        .await?;
    for row in rows {
        let role = |column| Ok::<_, sqlx::Error>(people.get(&row.try_get(column)?).map(|person| person.id.clone()));
        let (Some(member), Some(group)) = (role(0)?, role(1)?) else { continue };
        let own = implies.entry(member).or_default();
        if row.try_get(2)? {
            own.insert(format!("admin of {group}"));
        }
        if row.try_get(3)? {
            own.insert(group);
        }
    }
    Ok(implies)
}

async fn owned(reader: &mut Reader<'_>, people: &mut BTreeMap<i64, Person>) -> Result<(), AccessError> {
    for row in reader.catalog("SELECT datdba::bigint, datname::text FROM pg_database").await? {
        if let Some(owner) = people.get_mut(&row.try_get(0)?) {
            owner.places.insert(format!("database {}", row.try_get::<String, _>(1)?));
        }
    }
    Ok(())
}

/// Owners of `databases`, those who can act as them, what both can act as, and superusers.
fn relevant(people: &[Person], databases: &[&str]) -> BTreeSet<String> {
    if databases.is_empty() {
        return people.iter().map(|person| person.id.clone()).collect();
    }
    let theirs: BTreeSet<String> = databases.iter().map(|name| format!("database {name}")).collect();
    let owners: BTreeSet<&String> =
        people.iter().filter(|person| !person.places.is_disjoint(&theirs)).map(|person| &person.id).collect();
    let matters = |person: &&Person| {
        let superuser = person.effective.contains("attribute superuser");
        superuser || owners.contains(&person.id) || person.effective.iter().any(|group| owners.contains(group))
    };
    people.iter().filter(matters).flat_map(|p| p.effective.iter().chain([&p.id])).cloned().collect()
}

/// Settings that a role or a database brings to every session (`ALTER ROLE … SET`): the value as a digest.
async fn settings(
    reader: &mut Reader<'_>,
    roles: &BTreeSet<String>,
    databases: &[&str],
) -> Result<Vec<Policy>, AccessError> {
    let rows = reader
        .catalog(
            "SELECT r.rolname::text, d.datname::text, split_part(c, '=', 1), \
             encode(sha256(convert_to(c, 'UTF8')), 'hex') \
             FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c \
             LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase",
        )
        .await?;
    let mut policies = Vec::new();
    for row in rows {
        let (role, database): (Option<String>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let (name, sum): (String, String) = (row.try_get(2)?, row.try_get(3)?);
        let ours = databases.is_empty() || database.as_deref().is_none_or(|database| databases.contains(&database));
        if !ours || role.as_ref().is_some_and(|role| !roles.contains(role)) {
            continue;
        }
        let whose = format!("{}/{}", role.as_deref().unwrap_or("*"), database.as_deref().unwrap_or("*"));
        policies.push(Policy {
            kind: "role setting".to_owned(),
            id: format!("{whose}/{name}"),
            name: format!("{name} for {whose}"),
            active: true,
            effect: Effect::Describes,
            subjects: role.into_iter().collect(),
            grants: BTreeSet::new(),
            attributes: BTreeMap::new(),
            digests: BTreeMap::from([("value".to_owned(), reader.digest("role setting", sum.as_bytes()))]),
        });
    }
    Ok(policies)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(id: &str, effective: &[&str], database: Option<&str>) -> Person {
        Person {
            id: id.to_owned(),
            login: id.to_owned(),
            active: true,
            kind: PersonKind::Internal,
            groups: BTreeSet::new(),
            effective: effective.iter().map(|name| (*name).to_owned()).collect(),
            places: database.map(|name| format!("database {name}")).into_iter().collect(),
            credentials: Vec::new(),
        }
    }

    #[test]
    fn a_tenants_roster_has_who_can_reach_his_databases_and_nobody_else() {
        let people = [
            person("odoo_acme", &["app"], Some("acme")),
            person("odoo_globex", &["app"], Some("globex")),
            person("app", &[], None),
            person("dba", &["odoo_acme", "app"], None),
            person("root", &["attribute superuser"], None),
            person("bystander", &[], None),
        ];
        let kept = relevant(&people, &["acme"]);
        let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
        assert_eq!(kept, ["app", "attribute superuser", "dba", "odoo_acme", "root"]);
        assert_eq!(relevant(&people, &[]).len(), 6);
    }
}
