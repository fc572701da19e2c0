//! Whether the role that owns a database can still work in it: PostgreSQL is asked what it would let that role do.
//!
//! Odoo signs in to PostgreSQL as this role. Whether its password is still the right one is not asked: the sandbox lets every role in
//! without one.

use sqlx::PgConnection;

use crate::drill::probe::{Grade, Kind, Layer, Seen};
use crate::drill::verdict::Verdict;
use crate::failure::Failure;
use crate::postgres::sql;

pub const KIND: Kind = Kind { id: "postgres.owner", layer: Layer::Postgres, grade: Grade::E1 };

/// What the server says of the role.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Owner {
    pub role: String,
    pub may_log_in: bool,
    pub expired: bool,
    pub may_connect: bool,
    /// Tables and views of `public`, and those of them that it may not read.
    pub tables: u64,
    pub unreadable: u64,
}

const QUESTION: &str = "SELECT r.rolname::text, r.rolcanlogin::text, \
     coalesce(r.rolvaliduntil < pg_catalog.now(), false)::text, \
     pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')::text, \
     (SELECT count(*) FROM t)::text, \
     (SELECT count(*) FROM t WHERE NOT pg_catalog.has_table_privilege(r.oid, t.oid, 'SELECT'))::text \
   FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba WHERE d.datname = pg_catalog.current_database()";

const TABLES: &str = "WITH t AS (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
     ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm') \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = c.oid AND x.deptype = 'e'))";

/// Asks the server behind a connection to that database; the role's name comes with it.
///
/// # Errors
/// When the server does not answer.
pub async fn ask(connection: &mut PgConnection) -> Result<(Owner, Seen), Failure> {
    let rows = sql::text_rows(connection, "the database's owner", &format!("{TABLES} {QUESTION}")).await?;
    let owner = rows.into_iter().next().and_then(read).unwrap_or_default();
    let seen = judge(&owner);
    Ok((owner, seen))
}

fn read(row: Vec<Option<String>>) -> Option<Owner> {
    let [role, may_log_in, expired, may_connect, tables, unreadable] = <[_; 6]>::try_from(row).ok()?;
    let yes = |text: Option<String>| text.as_deref() == Some("true");
    let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
    Some(Owner {
        role: role?,
        may_log_in: yes(may_log_in),
        expired: yes(expired),
        may_connect: yes(may_connect),
        tables: number(tables)?,
        unreadable: number(unreadable)?,
    })
}

#[must_use]
pub fn judge(owner: &Owner) -> Seen {
    let role = &owner.role;
    let locked = |why: String| Seen::failed(Verdict::LockedOut, why);
    let seen = if role.is_empty() {
        locked("the database belongs to a role that is not there any more".to_owned())
    } else if !owner.may_log_in || !owner.may_connect {
        locked(format!("role {role}, which owns the database, may not connect to it"))
    } else if owner.expired {
        locked(format!("role {role}, which owns the database, has expired"))
    } else if owner.unreadable > 0 {
        locked(format!(
            "role {role} owns the database and may not read {} of its {} tables",
            owner.unreadable, owner.tables
        ))
    } else {
        Seen::passed(format!("role {role} may connect and read all {} tables", owner.tables))
    };
    seen.with(owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::probe::Outcome;

    #[test]
    fn a_role_that_cannot_work_locks_out() {
        let fine = Owner { role: "odoo".into(), may_log_in: true, may_connect: true, tables: 9, ..Owner::default() };
        assert_eq!(judge(&fine).outcome, Outcome::Passed);
        let broken = [
            Owner { role: String::new(), ..fine.clone() },
            Owner { may_log_in: false, ..fine.clone() },
            Owner { may_connect: false, ..fine.clone() },
            Owner { expired: true, ..fine.clone() },
            Owner { unreadable: 1, ..fine },
        ];
        for owner in broken {
            assert_eq!(judge(&owner).gate, Some(Verdict::LockedOut), "{owner:?}");
        }
    }
}
