//! The commits around a moment, and what they touched: to find the moment before the damage.
//!
//! Needs the cluster's and the tenant's key: what a transaction touched is the tenant's own. Names of tables come from the
//! newest point before the moment; a table that was made or rewritten since shows its file's number.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::Restore;
use super::choose::{Subject, choose, geometry};
use crate::config::When;
use crate::failure::Failure;
use crate::ids::{DbOid, Lsn, Scope};
use crate::point::PointBody;
use crate::point::stored::Stored;
use crate::postgres::wal::{Part, extent, merge, touched};
use crate::repo::envelope::Verified;

/// How many commits are shown on each side of the moment.
const SHOWN: usize = 12;
/// How many stretches are opened on each side to find them.
const STRETCHES: usize = 8;

/// A commit of the tenant's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// Restoring to this LSN gives the state just before the commit.
    pub before: Lsn,
    pub lsn: Lsn,
    pub time: Option<Timestamp>,
    pub xid: u32,
    /// Tables, with the number of records that changed them, most first.
    pub touched: Vec<(String, u64)>,
}

/// The commits on both sides of a moment.
#[derive(Debug, Clone, Serialize)]
pub struct Around {
    pub tenant: String,
    pub asked: String,
    pub lsn: Lsn,
    pub commits: Vec<Commit>,
}

impl Restore<'_> {
    /// Lists the tenant's commits around `asked`.
    ///
    /// # Errors
    /// As choosing; `Integrity` when a key is not here or a span is damaged.
    pub async fn around(&self, tenant: &str, asked: When) -> Result<Around, Failure> {
        let subject = Subject::Tenant(tenant.to_owned());
        let chosen = choose(self.config, &self.reader, subject, asked).await?;
        let geometry = geometry(&chosen.facts)?;
        let stored = Stored::read(&self.reader, &[Scope::Tenant(tenant.to_owned())]).await?;
        let holds = |envelope: &Verified| {
            envelope.wal.as_ref().is_some_and(|wal| wal.from <= chosen.lsn && chosen.lsn <= wal.to)
        };
        let run = stored.runs.iter().find(|run| run.envelopes.iter().any(holds));
        let envelopes = run.map(|run| run.envelopes.as_slice()).unwrap_or_default();
        let middle = envelopes.iter().position(holds).unwrap_or_default();
        let some = envelopes.get(middle.saturating_sub(STRETCHES)..).unwrap_or_default();

        let names = self.table_names(&chosen.points).await?;
        let mut commits = Vec::new();
        for envelope in some.iter().take(2 * STRETCHES + 1) {
            let Some(wal) = &envelope.wal else { continue };
            let mut parts: Vec<(bool, Part)> = Vec::new();
            for scope in &chosen.scopes {
                if let Some(span) = self.reader.span(envelope, scope).await? {
                    parts.push((*scope == chosen.cluster_scope(), extent::decode(&span)?));
                }
            }
            let Some((_, cluster)) = parts.iter().find(|(is_cluster, _)| *is_cluster) else { continue };
            let others: Vec<&Part> = parts.iter().filter(|(is_cluster, _)| !is_cluster).map(|(_, part)| part).collect();
            let bytes = merge::merge(cluster, &others)?;
            for found in touched::touched(geometry, wal.from, &bytes)? {
                let relations: Vec<_> =
                    found.relations.iter().filter(|((db, _), _)| chosen.databases.contains(db)).collect();
                if !relations.is_empty() {
                    commits.push(commit_of(&found, &relations, &names));
                }
            }
        }
        let split = commits.iter().position(|commit| commit.before >= chosen.lsn).unwrap_or(commits.len());
        let shown = commits.split_off(split.saturating_sub(SHOWN));
        let before = split.min(SHOWN);
        Ok(Around {
            tenant: tenant.to_owned(),
            asked: chosen.asked.understood(&self.config.estate.timezone),
            lsn: chosen.lsn,
            commits: shown.into_iter().take(before + SHOWN).collect(),
        })
    }

    async fn table_names(
        &self,
        points: &[crate::point::stored::StoredPoint],
    ) -> Result<BTreeMap<(DbOid, u32), String>, Failure> {
        let mut names = BTreeMap::new();
        for point in points {
            let value = self.reader.point_body(&point.envelope).await?;
            let Ok(body) = serde_json::from_value::<PointBody>(value) else { continue };
            for database in body.databases {
                names.extend(database.tables.into_iter().map(|(file, name)| ((database.oid, file), name)));
            }
        }
        Ok(names)
    }
}

fn commit_of(
    found: &touched::Touched,
    relations: &[(&(DbOid, u32), &u64)],
    names: &BTreeMap<(DbOid, u32), String>,
) -> Commit {
    let mut tables: BTreeMap<String, u64> = BTreeMap::new();
    for (relation, count) in relations {
        let name = names.get(relation).cloned().unwrap_or_else(|| format!("file {}", relation.1));
        *tables.entry(name).or_default() += **count;
    }
    let mut touched: Vec<(String, u64)> = tables.into_iter().collect();
    touched.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    Commit {
        before: found.commit.start,
        lsn: found.commit.end,
        time: found.commit.time,
        xid: found.commit.xid,
        touched,
    }
}
