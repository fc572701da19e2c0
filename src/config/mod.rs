//! `lifeboat.toml`: what one estate protects, where it goes, and how long it stays. `docs/CONFIG.md` lists every key.
//!
//! Reading it is pure: no server, no store, no secret is touched. Everything wrong is reported at once, with lines;
//! a key that is not known is refused, because a misspelt `retention` must not silently become the default. Relative
//! paths are relative to the file's folder. Secrets never stand in the file ([`Secret`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use toml::de::DeTable;

use crate::failure::{Failure, Kind};
use crate::ids::Scope;

pub mod cluster;
pub mod duration;
pub mod error;
mod item;
pub mod keys;
pub mod nearest;
pub mod place;
pub mod retention;
pub mod secret;
pub mod size;
pub mod store;
mod table;
pub mod tenant;
#[cfg(test)]
mod tests;
pub mod when;

pub use cluster::{Cluster, SslMode};
pub use error::{ConfigError, ConfigErrors, Problem};
pub use keys::{CustodyConfig, Keys};
pub use place::{Drill, OdooCommand, SandboxConfig, SandboxKind};
pub use retention::Retention;
pub use secret::Secret;
pub use store::{Role, S3Config, StoreConfig, is_bucket_name, is_prefix};
pub use tenant::{SignIn, Tenant};
pub use when::When;

use item::Item;
use nearest::hint;
use table::{Document, Table};

/// A whole `lifeboat.toml`, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read.
    pub path: PathBuf,
    pub estate: Estate,
    pub store: StoreConfig,
    /// Second copies (`[copies.NAME]`), by name.
    pub copies: BTreeMap<String, StoreConfig>,
    pub keys: Keys,
    /// What lifeboat keeps on this machine: caches, sandboxes, evidence. Nothing that recovery needs.
    pub state_dir: PathBuf,
    pub clusters: BTreeMap<String, Cluster>,
    pub tenants: BTreeMap<String, Tenant>,
    pub retention: Retention,
    pub sandbox: SandboxConfig,
    pub drill: Drill,
}

#[derive(Debug, Clone)]
pub struct Estate {
    pub name: String,
    /// For times that are given without an offset.
    pub timezone: TimeZone,
    pub timezone_name: String,
}

/// Where a configuration is looked for when none is named, in this order after `LIFEBOAT_CONFIG`.
pub const PLACES: [&str; 2] = ["lifeboat.toml", "/etc/lifeboat/lifeboat.toml"];

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, or everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigErrors::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks the text of the file at `path`, which is not read.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        let folder = path.parent().unwrap_or(Path::new(""));
        // Absolute from here on: what is started elsewhere (a server, a sandbox) must find the same files.
        let folder = std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .unwrap_or_else(|_| folder.to_owned());
        let (root, syntax) = DeTable::parse_recoverable(text);
        let document = Document::new(text, &folder, &syntax);
        let config = read(path, Table::root(&document, root.get_ref()));
        match document.problems() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(ConfigErrors::Wrong { path: path.to_owned(), problems }),
        }
    }

    /// The file to use: the one named, else `LIFEBOAT_CONFIG`, else the first of [`PLACES`] that exists.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(explicit: Option<&Path>) -> Result<PathBuf, Failure> {
        let variable = std::env::var_os("LIFEBOAT_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        find_among(explicit.map(Path::to_owned).or(variable), &PLACES.map(Path::new))
    }

    /// The tenant of that id.
    ///
    /// # Errors
    /// When there is none; names the nearest.
    pub fn tenant(&self, id: &str) -> Result<&Tenant, Failure> {
        self.tenants.get(id).ok_or_else(|| self.unknown("tenant", id, self.tenants.keys()))
    }

    /// The cluster of that name.
    ///
    /// # Errors
    /// When there is none; names the nearest.
    pub fn cluster(&self, name: &str) -> Result<&Cluster, Failure> {
        self.clusters.get(name).ok_or_else(|| self.unknown("cluster", name, self.clusters.keys()))
    }

    /// The copy of that name.
    ///
    /// # Errors
    /// When there is none; names the nearest.
    pub fn copy(&self, name: &str) -> Result<&StoreConfig, Failure> {
        self.copies.get(name).ok_or_else(|| self.unknown("copy", name, self.copies.keys()))
    }

    /// Whose a database is: its tenant's, the cluster's for a system database, `None` when nobody has been named.
    #[must_use]
    pub fn scope_of(&self, cluster: &str, database: &str) -> Option<Scope> {
        if tenant::SYSTEM_DATABASES.contains(&database) {
            return self.clusters.contains_key(cluster).then(|| Scope::Cluster(cluster.to_owned()));
        }
        let has = |tenant: &&Tenant| tenant.cluster == cluster && tenant.databases.iter().any(|name| name == database);
        self.tenants.values().find(has).map(|tenant| Scope::Tenant(tenant.id.clone()))
    }

    /// Every scope that needs a key: the estate, each cluster with its residue and quarantine, each tenant.
    #[must_use]
    pub fn scopes(&self) -> Vec<Scope> {
        let clusters = self.clusters.keys().flat_map(|name| {
            [Scope::Cluster(name.clone()), Scope::Residue(name.clone()), Scope::Quarantine(name.clone())]
        });
        let tenants = self.tenants.keys().map(|id| Scope::Tenant(id.clone()));
        std::iter::once(Scope::Estate).chain(clusters).chain(tenants).collect()
    }

    fn unknown<'a>(&self, what: &str, name: &str, known: impl Iterator<Item = &'a String> + Clone) -> Failure {
        Failure::new(
            Kind::Usage,
            format!("{what} {name}"),
            format!("{} has no such {what}{}", self.path.display(), hint(name, known.map(String::as_str))),
            format!("check the name, or add [{}.{name}] to the configuration", table_of(what)),
        )
    }
}

fn table_of(what: &str) -> String {
    what.strip_suffix('y').map_or_else(|| format!("{what}s"), |stem| format!("{stem}ies"))
}

fn find_among(named: Option<PathBuf>, places: &[&Path]) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path);
    }
    places.iter().find(|place| place.exists()).map(|place| place.to_path_buf()).ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            "lifeboat.toml",
            format!("there is no configuration in {}", PLACES.join(" or ")),
            "name one with --config or LIFEBOAT_CONFIG, or write one with `lifeboat init`",
        )
    })
}

fn read(path: &Path, root: Table<'_>) -> Config {
    let state_dir = root.take("state_dir", Item::path).unwrap_or_else(|| PathBuf::from("/var/lib/lifeboat"));
    let clusters = root.named("clusters");
    let names: BTreeSet<String> = clusters.iter().map(|(name, _)| name.clone()).collect();
    let mut claims = tenant::Claims::new();
    let config = Config {
        path: path.to_owned(),
        estate: estate(root.table("estate")),
        store: store::store(root.table("store")),
        copies: store::copies(&root),

        keys: keys::keys(root.table("keys")),
        clusters: clusters.into_iter().map(|(name, item)| (name.clone(), cluster::cluster(&name, &item))).collect(),
        tenants: (root.named("tenants").into_iter())
            .map(|(id, item)| (id.clone(), tenant::tenant(&id, &item, &names, &mut claims)))
            .collect(),
        retention: retention::retention(root.table("retention")),
        sandbox: place::sandbox(root.table("sandbox"), &state_dir),
        drill: place::drill(root.table("drill"), &state_dir),
        state_dir,
    };
    root.finish();
    config
}

fn estate(table: Table<'_>) -> Estate {
    let name = table.need("name", Item::plain_name).unwrap_or_default();
    let zone = table.take("timezone", |item| {
        let name = item.text()?;
        let zone = TimeZone::get(&name);
        zone.map(|zone| (zone, name.clone()))
            .map_err(|_| format!("there is no time zone '{name}'; write one like \"Europe/Berlin\""))
    });
    table.finish();
    let (timezone, timezone_name) = zone.unwrap_or_else(|| (TimeZone::UTC, "UTC".to_owned()));
    Estate { name, timezone, timezone_name }
}
