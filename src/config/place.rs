//! Where restored things run: `[sandbox]`, `[drill]`.

use std::path::{Path, PathBuf};

use super::item::Item;
use super::table::Table;

/// What isolates a restored server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxKind {
    /// Bubblewrap where it works, namespaces otherwise.
    Auto,
    Bubblewrap,
    Namespaces,
}

#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Whom a root lifeboat becomes before anything restored runs.
    pub user: String,
    /// Holds one folder per sandbox.
    pub dir: PathBuf,
    pub kind: SandboxKind,
}

#[derive(Debug, Clone)]
pub struct Drill {
    /// How to start Odoo over a restored database; without it a drill speaks for PostgreSQL and the filestore only.
    pub odoo: Option<OdooCommand>,
    /// Where evidence is put.
    pub dir: PathBuf,
}

#[derive(Debug, Clone)]
pub struct OdooCommand {
    /// Program and arguments, no shell.
    pub command: Vec<String>,
    /// Bound read-only into the sandbox, at the same place.
    pub paths: Vec<PathBuf>,
    /// Where it listens, inside the sandbox.
    pub port: u16,
    /// How long it may take until it answers.
    pub start_seconds: u32,
}

pub(super) fn sandbox(table: Table<'_>, state_dir: &Path) -> SandboxConfig {
    let kinds =
        [("auto", SandboxKind::Auto), ("bubblewrap", SandboxKind::Bubblewrap), ("namespaces", SandboxKind::Namespaces)];
    let sandbox = SandboxConfig {
        user: table.take("user", unprivileged).unwrap_or_else(|| "nobody".to_owned()),
        dir: table.take("dir", Item::path).unwrap_or_else(|| state_dir.join("sandboxes")),
        kind: table.take("kind", |item| item.one_of(&kinds)).unwrap_or(SandboxKind::Auto),
    };
    table.finish();
    sandbox
}

fn unprivileged(item: &Item<'_>) -> Result<String, String> {
    let user = item.text()?;
    if user == "root" || user == "0" { Err("restored data never runs as root".to_owned()) } else { Ok(user) }
}

pub(super) fn drill(table: Table<'_>, state_dir: &Path) -> Drill {
    let drill = Drill {
        odoo: table.optional_table("odoo").map(odoo),
        dir: table.take("dir", Item::path).unwrap_or_else(|| state_dir.join("drills")),
    };
    table.finish();
    drill
}

fn odoo(table: Table<'_>) -> OdooCommand {
    let command = OdooCommand {
        command: table.need_list("command", Item::text),
        paths: table.list("paths", Item::path),
        port: table.take("port", Item::port).unwrap_or(8069),
        start_seconds: table.take("start_seconds", |item| item.whole(1..86_401)).unwrap_or(120),
    };
    table.finish();
    command
}
