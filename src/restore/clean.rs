//! After recovery, before anything leaves the sandbox: what belongs to others goes.
//!
//! The shared catalogs of a cluster list every database and every role. Absent tenants' databases must be dropped (past the
//! freeze age one of them starves autovacuum for ever), their roles and verifiers must not travel with this tenant's
//! restore, and the pages that held them must not stay behind as dead rows.
//!
//! Which roles stay is a pure rule over plain values ([`kept_roles`]); the rest is SQL against the sandboxed server.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use crate::failure::Failure;
use crate::ids::DbOid;
use crate::postgres::sql;
use crate::watch::{Watch, warn};

/// What was taken out, for the report: names only.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    pub databases: Vec<String>,
    pub roles: Vec<String>,
    /// Roles that own something shared and could not be dropped: no password, no login.
    pub disabled_roles: Vec<String>,
    pub subscriptions: Vec<String>,
    /// Settings of roles and databases that would load a library at sign-in, as `role/database: setting`.
    pub settings: Vec<String>,
}

/// The shared catalogs that listed others (`src/include/catalog`, the ones marked `BKI_SHARED_RELATION` with names,
/// settings or secrets in them).
const REWRITTEN: [&str; 9] = [
    "pg_authid",
    "pg_auth_members",
    "pg_database",
    "pg_db_role_setting",
    "pg_shdepend",
    "pg_shdescription",
    "pg_shseclabel",
    "pg_subscription",
    "pg_replication_origin",
];

/// Drops absent databases and foreign roles, and rewrites the catalogs that named them.
///
/// Expected flow: recovery has ended, the server runs in the sandbox, nobody else is connected.
/// Guarantees: afterwards `pg_database` lists `wanted` and the system's own; no role outside the tenant's circle can sign in.
/// Errors: the first statement that fails, with the object it was about.
pub async fn remove_others(
    connection: &mut PgConnection,
    wanted: &BTreeSet<DbOid>,
    watch: &dyn Watch,
) -> Result<Removed, Failure> {
    let mut removed = Removed::default();
    sql::execute(connection, "session", "SET allow_system_table_mods = on").await?;
    drop_databases(connection, wanted, &mut removed).await?;
    drop_roles(connection, wanted, &mut removed, watch).await?;
    sql::execute(connection, "the sandbox's superuser", "ALTER ROLE CURRENT_USER PASSWORD NULL").await?;
    for catalog in REWRITTEN {
        sql::execute(connection, catalog, &format!("VACUUM (FULL, FREEZE) pg_catalog.{catalog}")).await?;
    }
    Ok(removed)
}

/// Settings that make a server load a library into a session (documentation, "Shared Library Preloading").
const LOADING: &str = "^(session_preload_libraries|local_preload_libraries|dynamic_library_path|jit_provider)=";

/// Takes out what `ALTER ROLE` and `ALTER DATABASE ... SET` left to be loaded at sign-in: whoever starts what is handed over must
/// not run what was captured.
///
/// # Errors
/// Of the server.
pub async fn drop_loading_settings(
    connection: &mut PgConnection,
    removed: &mut Removed,
    watch: &dyn Watch,
) -> Result<(), Failure> {
    let what = "settings of roles and databases";
    let listed = format!(
        "SELECT coalesce(nullif(setrole, 0)::regrole::text, 'all roles') || '/' || coalesce(datname::text, 'all databases') \
         || ': ' || setting FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase, unnest(setconfig) setting \
         WHERE setting ~ '{LOADING}' ORDER BY 1"
    );
    removed.settings = sql::text_rows(connection, what, &listed).await?.into_iter().flatten().flatten().collect();
    if removed.settings.is_empty() {
        return Ok(());
    }
    let kept = format!(
        "UPDATE pg_db_role_setting SET setconfig = ARRAY(SELECT s FROM unnest(setconfig) s WHERE s !~ '{LOADING}') \
         WHERE EXISTS (SELECT FROM unnest(setconfig) s WHERE s ~ '{LOADING}')"
    );
    for statement in [&*kept, "DELETE FROM pg_db_role_setting WHERE cardinality(setconfig) = 0"] {
        sql::execute(connection, what, statement).await?;
    }
    for setting in &removed.settings {
        let next = "set it again by hand when it is wanted";
        warn(watch, "settings that load a library", format!("{setting}: it is not handed over"), next);
    }
    Ok(())
}

/// Removes what ANALYZE (autovacuum's, too) kept in this database of the shared catalogs: samples of role names, of
/// verifiers, of databases; their older versions as well.
///
/// # Errors
/// Of the server.
pub async fn forget_others(connection: &mut PgConnection) -> Result<(), Failure> {
    let shared = "SELECT oid FROM pg_class WHERE relisshared";
    sql::execute(connection, "pg_statistic", &format!("DELETE FROM pg_statistic WHERE starelid IN ({shared})")).await?;
    Ok(sql::execute(connection, "pg_statistic", "VACUUM (FULL, FREEZE) pg_catalog.pg_statistic").await?)
}

async fn drop_databases(
    connection: &mut PgConnection,
    wanted: &BTreeSet<DbOid>,
    removed: &mut Removed,
) -> Result<(), Failure> {
    let listed = sql::text_rows(
        connection,
        "the list of databases",
        "SELECT oid::text, datname::text FROM pg_database WHERE oid >= 16384 AND datname <> 'postgres' ORDER BY datname",
    )
    .await?;
    for row in listed {
        let [Some(oid), Some(name)] = row.as_slice() else { continue };
        let oid = DbOid(oid.parse().unwrap_or_default());
        if wanted.contains(&oid) {
            continue;
        }
        // A database that owns a subscription refuses to go, and to drop one properly needs a connection to it.
        let lost = sql::text_rows(
            connection,
            name,
            &format!("DELETE FROM pg_subscription WHERE subdbid = {oid} RETURNING subname::text"),
        )
        .await?;
        removed.subscriptions.extend(lost.into_iter().flatten().flatten());
        let quoted = sql::quoted_name(name);
        sql::execute(connection, name, &format!("ALTER DATABASE {quoted} IS_TEMPLATE false")).await?;
        sql::execute(connection, name, &format!("DROP DATABASE {quoted}")).await?;
        removed.databases.push(name.clone());
    }
    // Ours stay, but asleep: a restored copy must not pull from anywhere.
    sql::execute(connection, "subscriptions", "UPDATE pg_subscription SET subenabled = false").await?;
    Ok(())
}

async fn drop_roles(
    connection: &mut PgConnection,
    wanted: &BTreeSet<DbOid>,
    removed: &mut Removed,
    watch: &dyn Watch,
) -> Result<(), Failure> {
    let roles = read_roles(connection, wanted).await?;
    let kept = kept_roles(&roles.tied, &roles.memberships);
    for (oid, name) in &roles.names {
        if kept.contains(oid) {
            continue;
        }
        let quoted = sql::quoted_name(name);
        if sql::execute(connection, name, &format!("DROP ROLE {quoted}")).await.is_ok() {
            removed.roles.push(name.clone());
            continue;
        }
        sql::execute(connection, name, &format!("ALTER ROLE {quoted} NOLOGIN NOSUPERUSER PASSWORD NULL")).await?;
        warn(
            watch,
            format!("role {name}"),
            "owns something in the shared part and could not be dropped; it has no password and no login now",
            "",
        );
        removed.disabled_roles.push(name.clone());
    }
    Ok(())
}

struct Roles {
    names: BTreeMap<u32, String>,
    /// Roles that own or may use something in a wanted database.
    tied: BTreeSet<u32>,
    /// (member, role it is a member of)
    memberships: Vec<(u32, u32)>,
}

/// Reads the roles that people made (OIDs from 16384 on: `FirstNormalObjectId`), and what ties them to `wanted`.
async fn read_roles(connection: &mut PgConnection, wanted: &BTreeSet<DbOid>) -> Result<Roles, Failure> {
    let list = wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let list = if list.is_empty() { "0".to_owned() } else { list };
    let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<u32>().ok()).unwrap_or_default();
    let names =
        sql::text_rows(connection, "roles", "SELECT oid::text, rolname::text FROM pg_roles WHERE oid >= 16384").await?;
    // pg_shdepend: dbid 0 rows speak of shared objects; classid 1262 is pg_database, refclassid 1260 pg_authid.
    let tied = sql::text_rows(
        connection,
        "dependencies of roles",
        &format!(
            "SELECT DISTINCT refobjid::text FROM pg_shdepend WHERE refclassid = 1260 \
             AND (dbid IN ({list}) OR (dbid = 0 AND classid = 1262 AND objid IN ({list})))"
        ),
    )
    .await?;
    let memberships =
        sql::text_rows(connection, "memberships of roles", "SELECT member::text, roleid::text FROM pg_auth_members")
            .await?;
    let name_of = |row: &[Option<String>]| match row {
        [oid, Some(name)] => Some((number(oid), name.clone())),
        _ => None,
    };
    Ok(Roles {
        names: names.iter().filter_map(|row| name_of(row)).collect(),
        tied: tied.iter().filter_map(|row| row.first()).map(number).collect(),
        memberships: memberships
            .iter()
            .filter_map(|row| match row.as_slice() {
                [member, role] => Some((number(member), number(role))),
                _ => None,
            })
            .collect(),
    })
}

/// The roles that belong to the tenant's circle: those tied to its databases, the roles these are members of (what they may
/// do), and their own members (who may do it). The two ways never mix: a platform role that is a member of every tenant's
/// role stays, the other tenants' roles it belongs to do not; a role that every tenant's role is in stays, its other members
/// do not.
#[must_use]
pub fn kept_roles(tied: &BTreeSet<u32>, memberships: &[(u32, u32)]) -> BTreeSet<u32> {
    let mut kept = closure(tied, memberships, |(member, role)| (*member, *role));
    kept.extend(closure(tied, memberships, |(member, role)| (*role, *member)));
    kept
}

fn closure(
    start: &BTreeSet<u32>,
    edges: &[(u32, u32)],
    direction: impl Fn(&(u32, u32)) -> (u32, u32),
) -> BTreeSet<u32> {
    let mut found = start.clone();
    loop {
        let before = found.len();
        let next: Vec<u32> =
            edges.iter().map(&direction).filter(|(from, _)| found.contains(from)).map(|(_, to)| to).collect();
        found.extend(next);
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_tenants_roles_stay_and_other_tenants_roles_go() {
        // 1 = odoo_acme, 2 = odoo_globex, 3 = acme_readers (granted), 4 = alice in 1, 5 = dba in 1 and 2
        let memberships = [(4, 1), (5, 1), (5, 2)];
        let kept = kept_roles(&BTreeSet::from([1, 3]), &memberships);
        assert_eq!(kept, BTreeSet::from([1, 3, 4, 5]));
    }

    #[test]
    fn what_a_tenants_role_may_do_through_other_roles_stays() {
        // odoo_acme (1) is a member of reporting (2), which is a member of audit (3)
        let kept = kept_roles(&BTreeSet::from([1]), &[(1, 2), (2, 3)]);
        assert_eq!(kept, BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn a_role_that_every_tenant_is_in_does_not_bring_the_other_tenants_along() {
        // odoo_acme (1) and odoo_globex (2) are members of platform (3)
        assert_eq!(kept_roles(&BTreeSet::from([1]), &[(1, 3), (2, 3)]), BTreeSet::from([1, 3]));
    }

    #[test]
    fn a_cycle_ends() {
        assert_eq!(kept_roles(&BTreeSet::from([1]), &[(1, 2), (2, 1)]), BTreeSet::from([1, 2]));
    }
}
