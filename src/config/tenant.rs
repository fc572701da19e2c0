//! `[tenants.ID]`: whose databases and files are whose. Every database belongs to at most one tenant; what belongs to
//! none gets a spare key when its WAL arrives, never a guess.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::SignedDuration;

use super::item::{Item, plain_name};
use super::nearest::hint;
use super::secret::Secret;

/// Databases that every cluster has; their bytes lie in the cluster's scope.
pub const SYSTEM_DATABASES: [&str; 3] = ["postgres", "template0", "template1"];

/// Words that `lifeboat restore` takes in a tenant's place.
pub const RESERVED: [&str; 3] = ["list", "resume", "abort"];

/// What may be allowed by name although a restore refuses it by default (design, invariant 7).
const EXCEPTIONS: [&str; 4] = ["event-trigger", "language", "server", "subscription"];

#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: String,
    /// The cluster that holds all of this tenant's databases.
    pub cluster: String,
    pub databases: Vec<String>,
    /// The folder that holds `<database>/` with the attachments (Odoo's `data_dir/filestore`).
    pub filestore: Option<PathBuf>,
    pub tier: String,
    /// How much work may be lost, in time.
    pub rpo: Option<SignedDuration>,
    /// How long a restore may take.
    pub rto: Option<SignedDuration>,
    /// Extensions that a restore may create, besides the built-in list.
    pub allow_extensions: Vec<String>,
    /// Named exceptions: `event-trigger:NAME`, `language:NAME`, `server:NAME`, `subscription:NAME`.
    pub allow: Vec<String>,
    /// The drill host may open this tenant without its custodians.
    pub drill_host: bool,
    /// Sign-ins that a drill tries.
    pub signin: Vec<SignIn>,
}

/// A canary user of a tenant.
#[derive(Debug, Clone)]
pub struct SignIn {
    pub login: String,
    pub password: Secret,
}

/// Which tenant has which database of which cluster, while the file is read.
pub(super) type Claims = BTreeMap<(String, String), String>;

pub(super) fn tenant(id: &str, item: &Item<'_>, clusters: &BTreeSet<String>, claims: &mut Claims) -> Tenant {
    let table = item.table();
    if let Err(what) = plain_name(id) {
        table.report("", what);
    }
    if RESERVED.contains(&id) {
        table.report("", format!("'{id}' is a word of `lifeboat restore`; choose another name"));
    }
    let cluster = table.need("cluster", |item| known_cluster(item, clusters)).unwrap_or_default();
    let databases = table.need_list("databases", |item| {
        let name = database(item)?;
        claim(id, &cluster, &name, claims)?;
        Ok(name)
    });
    let tenant = Tenant {
        id: id.to_owned(),
        cluster,
        databases,
        filestore: table.take("filestore", Item::path),
        tier: table.take("tier", Item::plain_name).unwrap_or_else(|| "standard".to_owned()),
        rpo: table.take("rpo", Item::some_duration),
        rto: table.take("rto", Item::some_duration),
        allow_extensions: table.list("allow_extensions", Item::text),
        allow: table.list("allow", exception),
        drill_host: table.take("drill_host", Item::flag).unwrap_or(false),
        signin: table.tables("signin").into_iter().filter_map(sign_in).collect(),
    };
    table.finish();
    tenant
}

fn known_cluster(item: &Item<'_>, clusters: &BTreeSet<String>) -> Result<String, String> {
    let name = item.text()?;
    if clusters.contains(&name) || item.document.broken {
        return Ok(name);
    }
    Err(format!("there is no cluster '{name}'{}", hint(&name, clusters.iter().map(String::as_str))))
}

fn database(item: &Item<'_>) -> Result<String, String> {
    let name = item.text()?;
    database_name(&name)?;
    Ok(name)
}

/// Whether a tenant can list a database of that name; it also becomes a folder's (`filestore/<database>`), so it must
/// stay one part of a path.
///
/// # Errors
/// A sentence that says why not.
pub fn database_name(name: &str) -> Result<(), String> {
    if SYSTEM_DATABASES.contains(&name) {
        return Err(format!("'{name}' is a system database: it belongs to the cluster, not to a tenant"));
    }
    if name.len() > 63 {
        return Err(format!("'{name}' is longer than the 63 bytes of a PostgreSQL name"));
    }
    if name.is_empty() || name.chars().any(char::is_control) || name.contains('/') || name == "." || name == ".." {
        return Err(format!("{name:?} cannot be the name of a folder, which a filestore needs"));
    }
    Ok(())
}

fn claim(id: &str, cluster: &str, database: &str, claims: &mut Claims) -> Result<(), String> {
    if cluster.is_empty() {
        return Ok(()); // which cluster is meant is not known, and has been said
    }
    match claims.insert((cluster.to_owned(), database.to_owned()), id.to_owned()) {
        None => Ok(()),
        Some(other) if other == id => Err(format!("'{database}' is listed twice")),
        Some(other) => Err(format!("'{database}' of cluster '{cluster}' belongs to tenant '{other}' already")),
    }
}

fn exception(item: &Item<'_>) -> Result<String, String> {
    let text = item.text()?;
    match text.split_once(':') {
        Some((kind, name)) if EXCEPTIONS.contains(&kind) && !name.is_empty() => Ok(text),
        Some((kind, name)) if !name.is_empty() => {
            Err(format!("'{kind}' is nothing that can be allowed{}", hint(kind, EXCEPTIONS)))
        }
        _ => Err(format!("'{text}' is not an exception like \"event-trigger:NAME\"")),
    }
}

fn sign_in(table: super::table::Table<'_>) -> Option<SignIn> {
    let login = table.need("login", Item::text);
    let password = table.need("password", Item::secret);
    table.finish();
    Some(SignIn { login: login?, password: password? })
}
