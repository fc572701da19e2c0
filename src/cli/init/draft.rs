//! The text of a first `lifeboat.toml`, with the comments a person needs to go on from there.
//!
//! Every name that was found goes in as a TOML string; what is not certain goes in as a comment.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::look::Server;
use super::plain_name;
use crate::config::tenant::database_name;

/// What a first configuration is made of.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) store: PathBuf,
    /// `None` for the default, which only root can write.
    pub(super) state_dir: Option<PathBuf>,
    pub(super) servers: Vec<Server>,
    pub(super) filestores: Vec<PathBuf>,
}

impl Draft {
    pub(super) fn text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        match &self.state_dir {
            Some(dir) => text += &format!("{STATE}state_dir = {}\n", path(dir)),
            None => text += &format!("{STATE}# state_dir = \"/var/lib/lifeboat\"\n"),
        }
        let zone = "# For times that are typed without an offset.\n# timezone = \"Europe/Berlin\"";
        let _ = write!(text, "\n[estate]\nname = {}\n{zone}\n", quoted(&self.name));
        let _ = write!(text, "\n{STORE}[store]\nkind = \"local\"\npath = {}\n\n{KEYS}", path(&self.store));
        let (mut clusters, mut tenants) = (Vec::new(), Vec::new());
        for server in &self.servers {
            let wanted = if clusters.is_empty() { "main".to_owned() } else { format!("main-{}", server.port) };
            let cluster = plain_name(&wanted, &clusters);
            text += &of_server(&cluster, server);
            for database in server.databases.iter().flatten() {
                let id = plain_name(database, &tenants);
                text += &self.of_database(&id, &cluster, database);
                tenants.push(id);
            }
            clusters.push(cluster);
        }
        if clusters.is_empty() {
            text += NO_SERVER;
        }
        if tenants.is_empty() {
            text += NO_TENANT;
        }
        text + TAIL
    }

    fn of_database(&self, id: &str, cluster: &str, database: &str) -> String {
        let mut text = format!("\n[tenants.{id}]\ncluster = \"{cluster}\"\ndatabases = [{}]\n", quoted(database));
        let usable = database_name(database).is_ok();
        text += &match self.filestores.iter().find(|folder| usable && folder.join(database).is_dir()) {
            Some(folder) => format!("filestore = {}\n", path(folder)),
            None => NO_FILESTORE.to_owned(),
        };
        if usable {
            return text;
        }
        // It cannot be protected as it is; saying so here is better than leaving it out in silence.
        let comment: String = text.trim_start().lines().map(|line| format!("# {line}\n")).collect();
        format!("\n# A database of this name has no place for a filestore; rename it, then:\n{comment}")
    }
}

fn of_server(name: &str, server: &Server) -> String {
    let mut text = format!("\n[clusters.{name}]\nhost = {}\n", quoted(&server.host));
    let _ = write!(text, "port = {}\nuser = {}\n", server.port, quoted(&server.user));
    text += "# The user needs REPLICATION, and may read settings and the list of databases.\n";
    match server.password_in_env {
        true => text += "password = { env = \"PGPASSWORD\" }\n",
        false => text += "# password = { file = \"main.password\" }    # one line, mode 0600\n",
    }
    if server.databases.is_err() {
        text += "# Its databases could not be listed: write the tenants down yourself.\n";
    }
    text
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

const HEAD: &str = "\
# What this estate protects. Every key, with its default: docs/CONFIG.md.
# Relative paths are relative to this file. Secrets never stand here: { file = \"...\" } or { env = \"...\" }.
";

const STATE: &str = "\
# What lifeboat keeps on this machine: caches, sandboxes, evidence. Nothing that recovery needs.
";

const STORE: &str = "\
# On the disk that it protects it is no backup: mount something else here.
";

const KEYS: &str = "\
[keys]
# Stays on the machine that backs up; opens nothing.
writer = \"keys/writer.json\"
# Opens the backups. Copy it to two places under different people, then take it off this machine.
identities = \"keys/identities\"
# Who may sign what is stored.
signers = \"keys/allowed_signers\"
";

const NO_SERVER: &str = "
# No server was found here.
# [clusters.main]
# host = \"db1.internal\"
# user = \"lifeboat\"
# password = { file = \"main.password\" }
";

const NO_TENANT: &str = "
# [tenants.acme]
# cluster = \"main\"
# databases = [\"acme\"]
# filestore = \"/var/lib/odoo/filestore\"
";

const NO_FILESTORE: &str = "\
# The folder that holds this database's folder of attachments.
# filestore = \"/var/lib/odoo/filestore\"
";

const TAIL: &str = "
# How long recovery points are kept, and how far back every second can be reached.
# [retention]
# pitr = \"35d\"
# [retention.classes]
# daily = \"35d\"
# monthly = \"400d\"
# yearly = \"7y\"
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::ids::Scope;
    use proptest::prelude::*;

    fn server(port: u16, databases: Result<Vec<String>, String>) -> Server {
        let host = "/var/run/postgresql".to_owned();
        Server { host, port, user: "backup".into(), databases, password_in_env: false }
    }

    fn draft(servers: Vec<Server>) -> Draft {
        Draft { name: "shop".into(), store: "store".into(), state_dir: None, servers, filestores: Vec::new() }
    }

    fn parsed(draft: &Draft) -> Config {
        Config::parse(&draft.text(), Path::new("/etc/lifeboat/lifeboat.toml")).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn every_database_found_becomes_a_tenant_with_its_filestore() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("acme")).unwrap();
        let servers = vec![server(5432, Ok(vec!["acme".into(), "Globex GmbH".into()]))];
        let config = parsed(&Draft { filestores: vec![dir.path().into()], ..draft(servers) });
        assert_eq!(config.tenants["acme"].filestore.as_deref(), Some(dir.path()));
        assert_eq!(config.tenants["globex-gmbh"].databases, ["Globex GmbH"]);
        assert_eq!(config.tenants["globex-gmbh"].filestore, None);
        assert_eq!(config.scope_of("main", "acme"), Some(Scope::Tenant("acme".into())));
    }

    #[test]
    fn two_servers_with_the_same_databases_make_two_clusters_and_tenants_of_their_own() {
        let names = || Ok(vec!["acme".to_owned(), "list".to_owned()]);
        let config = parsed(&draft(vec![server(5432, names()), server(5433, names())]));
        assert_eq!(config.clusters.keys().collect::<Vec<_>>(), ["main", "main-5433"]);
        assert_eq!(config.tenants["acme-2"].cluster, "main-5433");
        assert_eq!(config.tenants["list-2"].databases, ["list"]);
    }

    #[test]
    fn without_a_server_or_its_list_the_file_still_parses() {
        assert!(parsed(&draft(Vec::new())).clusters.is_empty());
        let config = parsed(&draft(vec![server(5432, Err("no".into()))]));
        assert!(config.clusters.contains_key("main") && config.tenants.is_empty());
    }

    #[test]
    fn a_name_that_cannot_be_a_folder_is_left_as_a_comment() {
        let drafted = draft(vec![server(5432, Ok(vec!["a/b".into(), "x\n[store]".into(), "acme".into()]))]);
        assert_eq!(parsed(&drafted).tenants.keys().collect::<Vec<_>>(), ["acme"]);
        assert!(drafted.text().contains("# databases = [\"a/b\"]"));
    }

    proptest! {
        #[test]
        fn whatever_a_database_is_called_the_file_parses_and_names_it(
            names in prop::collection::btree_set("[^\\p{C}/]{1,15}", 1..6),
        ) {
            let listed: Vec<String> =
                names.into_iter().filter(|name| name != "." && name != ".." && name != "postgres").collect();
            let config = parsed(&draft(vec![server(5432, Ok(listed.clone()))]));
            for name in listed {
                prop_assert!(config.scope_of("main", &name).is_some(), "{}", name);
            }
        }
    }
}
