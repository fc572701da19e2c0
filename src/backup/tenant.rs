//! One tenant's part of a recovery point beside the base backup: its files and who may do what, at one LSN.
//!
//! Per database: hold Odoo's collection; read what the rows reference; capture the access roster between two readings that
//! must agree, with a mark in the WAL between them: that mark's end is the point's LSN; copy every file, checking its SHA-1;
//! end the hold. Every row committed by then has its file on disk, and nothing removes one meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::PgConnection;

use super::files::{self, FilesTaken};
use super::{Backup, Totals, to_value};
use crate::access::reader::Keyed;
use crate::access::roster::Roster;
use crate::access::{Capture, compare, odoo};
use crate::config::Tenant;
use crate::failure::{Failure, Kind};
use crate::filestore::hold::{Hold, HoldError};
use crate::filestore::rows::{self, Referenced};
use crate::ids::{DbOid, Lsn, Scope};
use crate::point::{PointDatabase, SetRole};
use crate::postgres::connect::Server;
use crate::postgres::sql;
use crate::repo::set::SetKind;
use crate::repo::set_writer::{FileMeta, StoredSet};
use crate::repo::writer::NewSet;
use crate::watch::{note, warn};

/// How often a roster that changed while it was read is read again.
const TRIES: u32 = 5;

/// What the key of a roster's digests is derived for: whoever opens the tenant's sets can compare, nobody else.
pub const ROSTER_KEY: &str = "access-roster";

/// What was taken of one tenant.
pub struct Taken {
    pub lsn: Lsn,
    pub time: Timestamp,
    pub databases: Vec<PointDatabase>,
    pub sets: Vec<(SetRole, StoredSet)>,
    pub files: BTreeMap<String, FilesTaken>,
    pub totals: Totals,
}

/// Takes files and access of `tenant`'s databases.
///
/// # Errors
/// Of the server, the filestore's folder, or the store. A database that does not exist is a warning.
pub async fn take(
    backup: &Backup<'_>,
    tenant: &Tenant,
    server: &Server,
    locked_until: Timestamp,
) -> Result<Taken, Failure> {
    let mut taken = Taken {
        lsn: Lsn(0),
        time: backup.clock.now(),
        databases: Vec::new(),
        sets: Vec::new(),
        files: BTreeMap::new(),
        totals: Totals::default(),
    };
    for database in &tenant.databases {
        let Some(oid) = oid_of(server, database).await? else {
            warn(
                &*backup.watch,
                format!("database {database}"),
                format!("is mapped to tenant {} and does not exist", tenant.id),
                "create it, or take it out of lifeboat.toml",
            );
            continue;
        };
        let tables = tables_of(server, database).await?;
        taken.databases.push(PointDatabase { oid, name: database.clone(), tables });
        take_database(backup, tenant, server, database, locked_until, &mut taken).await?;
    }
    if taken.lsn == Lsn(0) {
        // No database of its own: the point stands where the server stands.
        let mut connection = sql::connect(server, &server.database).await?;
        (taken.lsn, taken.time) = (mark(&mut connection).await?, sql::clock(&mut connection).await?);
    }
    for (_, set) in &taken.sets {
        taken.totals.count(set);
    }
    Ok(taken)
}

async fn take_database(
    backup: &Backup<'_>,
    tenant: &Tenant,
    server: &Server,
    database: &str,
    locked_until: Timestamp,
    taken: &mut Taken,
) -> Result<(), Failure> {
    backup.watch.stage(&format!("{}: access and files of {database}", tenant.id), None);
    let scope = Scope::Tenant(tenant.id.clone());
    let mut held = sql::connect(server, database).await?;
    let mut other = sql::connect(server, database).await?;
    let hold = match Hold::take(&mut held).await {
        Ok(hold) => hold,
        Err(HoldError::NotOdoo { .. }) => {
            note(&*backup.watch, format!("database {database}"), "is not an Odoo database: no files, no Odoo access");
            (taken.lsn, taken.time) = (mark(&mut other).await?, sql::clock(&mut other).await?);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(why) = &hold.note {
        note(&*backup.watch, format!("database {database}"), why.clone());
    }
    let (roster, lsn) = steady_roster(backup, tenant, database, &mut other).await?;
    let referenced = rows::referenced(&mut *hold.connection).await?;
    (taken.lsn, taken.time) = (taken.lsn.max(lsn), sql::clock(&mut other).await?);
    let access = store_roster(backup, &scope, database, &roster, locked_until).await?;
    taken.sets.push((SetRole::Access(format!("odoo/{database}")), access));
    if let Some(parent) = &tenant.filestore {
        let (set, files) = store_files(backup, &scope, parent, database, referenced, locked_until).await?;
        taken.sets.push((SetRole::Filestore(database.to_owned()), set));
        taken.files.insert(database.to_owned(), files);
    }
    hold.release().await?;
    Ok(())
}

/// Reads the roster until two readings with a mark in the WAL between them agree: then it is true at the mark.
async fn steady_roster(
    backup: &Backup<'_>,
    tenant: &Tenant,
    database: &str,
    connection: &mut PgConnection,
) -> Result<(Roster, Lsn), Failure> {
    let key = backup.writer.derived_key(&Scope::Tenant(tenant.id.clone()), ROSTER_KEY)?;
    let mut tries = 0;
    loop {
        let now = backup.clock.now();
        let asked = Capture { tenant: Some(&tenant.id), key: Keyed(&key), captured_at: now, as_of: now };
        let before = odoo::capture(connection, asked).await?;
        let lsn = mark(connection).await?;
        let after = odoo::capture(connection, asked).await?;
        tries += 1;
        if compare::compare(&before, &after)?.is_empty() {
            return Ok((Roster { lsn: Some(lsn), ..before }, lsn));
        }
        if tries == TRIES {
            warn(
                &*backup.watch,
                format!("access of database {database}"),
                "changed each time it was read; a drill may find differences of these moments",
                "",
            );
            return Ok((Roster { lsn: Some(lsn), ..after }, lsn));
        }
    }
}

async fn store_roster(
    backup: &Backup<'_>,
    scope: &Scope,
    database: &str,
    roster: &Roster,
    locked_until: Timestamp,
) -> Result<StoredSet, Failure> {
    let text = serde_json::to_vec_pretty(&to_value(roster)?)
        .map_err(|error| Failure::new(Kind::Failed, "access roster", error.to_string(), "report this defect"))?;
    let new =
        NewSet { scope: scope.clone(), source: format!("access-odoo-{database}"), kind: SetKind::Access, locked_until };
    let mut set = backup.writer.begin_set(new, &*backup.watch).await?;
    let set = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
        set.start_file(FileMeta { path: "roster.json".into(), mode: 0o600, ..FileMeta::default() })?;
        set.piece(text.into())?;
        set.end_file(BTreeMap::new())?;
        Ok(set)
    })
    .await
    .map_err(crate::failure::panicked)??;
    Ok(set.finish(serde_json::json!({ "database": database, "layer": "odoo" })).await?)
}

async fn store_files(
    backup: &Backup<'_>,
    scope: &Scope,
    parent: &std::path::Path,
    database: &str,
    referenced: Referenced,
    locked_until: Timestamp,
) -> Result<(StoredSet, FilesTaken), Failure> {
    let new = NewSet { scope: scope.clone(), source: files::source(database), kind: SetKind::Filestore, locked_until };
    let set = backup.writer.begin_set(new, &*backup.watch).await?;
    let (folder, watch) = (parent.join(database), Arc::clone(&backup.watch));
    let taking = tokio::task::spawn_blocking(move || files::take(set, &folder, &referenced, &*watch));
    let (set, taken) = taking.await.map_err(crate::failure::panicked)??;
    let facts = serde_json::json!({ "database": database, "complete": true, "files": to_value(&taken)? });
    Ok((set.finish(facts).await?, taken))
}

/// Puts a mark into the WAL and returns the position behind it: exact, and sure to become durable, which the server's
/// own answers about where it stands are not (they may lie inside a record or before a page header).
async fn mark(connection: &mut PgConnection) -> Result<Lsn, Failure> {
    let text =
        sql::value(connection, "a mark in the WAL", "SELECT pg_logical_emit_message(false, 'lifeboat', 'point')::text")
            .await?;
    text.parse().map_err(|error: crate::ids::IdError| {
        Failure::new(Kind::Failed, "server", error.to_string(), "report this defect")
    })
}

/// An index stands for its table, a TOAST table and its index for the table they serve.
const TABLES: &str = "SELECT pg_relation_filenode(c.oid)::text, coalesce(w.relname, o.relname, t.relname, c.relname)::text \
    FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_class t ON t.oid = i.indrelid \
    LEFT JOIN pg_class o ON o.reltoastrelid = c.oid LEFT JOIN pg_class w ON w.reltoastrelid = t.oid \
    WHERE pg_relation_filenode(c.oid) IS NOT NULL";

async fn tables_of(server: &Server, database: &str) -> Result<BTreeMap<u32, String>, Failure> {
    let mut connection = sql::connect(server, database).await?;
    let rows = sql::text_rows(&mut connection, "the list of tables", TABLES).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match row.as_slice() {
            [Some(file), Some(name)] => Some((file.parse().ok()?, name.clone())),
            _ => None,
        })
        .collect())
}

async fn oid_of(server: &Server, database: &str) -> Result<Option<DbOid>, Failure> {
    let mut connection = sql::connect(server, &server.database).await?;
    let asked = format!("SELECT oid::text FROM pg_database WHERE datname = {}", sql::quoted_text(database));
    let rows = sql::text_rows(&mut connection, "the database's OID", &asked).await?;
    Ok(rows.into_iter().flatten().flatten().next().and_then(|oid| oid.parse().ok()).map(DbOid))
}
