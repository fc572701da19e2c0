//! The Odoo layer: who may sign in to one database and what he may do there (Odoo 17 to 19).
//!
//! Everything is read in one snapshot by allow-list; tables and columns that a version or an absent module does not have are
//! skipped. Ids are Odoo's own, which a restore keeps; groups, rules and accesses go by their external ids (`module.name`), custom
//! ones by `kind:NAME#id`. Odoo 19 stores only the memberships that were given, earlier versions their closure: `effective` is
//! the closure in both and is what may be compared across versions.
//!
//! It is not a login test: an equal digest says that a credential is unchanged, not that it works.

mod people;
mod policies;

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::reader::{Field, Reader, Record, Take};
use super::roster::{FORMAT, Roster};
use super::{AccessError, Capture};

const TABLES: &[&str] = &[
    "res_users",
    "res_groups",
    "res_groups_users_rel",
    "res_groups_implied_rel",
    "res_company",
    "res_company_users_rel",
    "res_users_apikeys",
    "auth_totp_device",
    "auth_passkey_key",
    "auth_oauth_provider",
    "ir_rule",
    "rule_group_rel",
    "ir_model",
    "ir_model_access",
    "ir_model_data",
    "ir_module_module",
    "ir_config_parameter",
    "ir_mail_server",
    "fetchmail_server",
];

/// Captures the roster of the database that `connection` is connected to (in no transaction).
///
/// # Errors
/// [`AccessError::NotOdoo`] where there are no users; [`AccessError::Strange`] where a table is not one.
pub async fn capture(connection: &mut PgConnection, asked: Capture<'_>) -> Result<Roster, AccessError> {
    let roster = read(connection, asked).await;
    if roster.is_err() {
        // The first error is the one to tell; a connection that cannot roll back is closed by its owner.
        let _ = sqlx::query("ROLLBACK").execute(connection).await;
    }
    roster
}

async fn read(connection: &mut PgConnection, asked: Capture<'_>) -> Result<Roster, AccessError> {
    let mut reader = Reader::begin(connection, asked.key, TABLES).await?;
    if !reader.has("res_users") || !reader.has("res_groups") || !reader.has("ir_model_data") {
        return Err(AccessError::NotOdoo { database: reader.database });
    }
    let names = Names::read(&mut reader).await?;
    let facts = facts(&mut reader).await?;
    let groups = people::groups(&mut reader, &names).await?;
    let people = people::people(&mut reader, &names, &groups).await?;
    let policies = policies::policies(&mut reader, &names).await?;
    let (database, lsn) = (reader.database.clone(), reader.lsn);
    let roster = Roster {
        format: FORMAT,
        layer: "odoo".to_owned(),
        tenant: asked.tenant.map(str::to_owned),
        database: Some(database),
        captured_at: asked.captured_at,
        as_of: asked.as_of,
        lsn,
        key_check: asked.key.check(),
        facts,
        people,
        groups,
        policies,
        omitted: reader.finish().await?,
    };
    Ok(roster.sorted())
}

/// Stable names of records, from `ir_model_data` and from the records themselves.
struct Names {
    /// (model, id) to `module.name`.
    external: BTreeMap<(String, i64), String>,
    groups: BTreeMap<i64, String>,
    models: BTreeMap<i64, String>,
    companies: BTreeMap<i64, String>,
}

const NAMED: &[Field] = &[("id", Take::Clear), ("name", Take::Clear)];

impl Names {
    async fn read(reader: &mut Reader<'_>) -> Result<Self, AccessError> {
        let fields: &[Field] =
            &[("module", Take::Clear), ("name", Take::Clear), ("model", Take::Clear), ("res_id", Take::Clear)];
        let wanted = "t.model IN ('res.groups', 'res.users', 'ir.rule', 'ir.model.access')";
        let mut external = BTreeMap::new();
        for row in reader.rows_where("ir_model_data", fields, wanted).await? {
            let (Some(module), Some(name)) = (row.text("module"), row.text("name")) else { continue };
            let (Some(model), Some(id)) = (row.text("model"), row.number("res_id")) else { continue };
            // Made by whoever exports a list, at any time: not stable.
            if module == "__export__" {
                continue;
            }
            let name = format!("{module}.{name}");
            // Of several, the first by name.
            let kept = external.entry((model, id)).or_insert_with(|| name.clone());
            if name < *kept {
                *kept = name;
            }
        }
        let mut names = Self { external, groups: BTreeMap::new(), models: BTreeMap::new(), companies: BTreeMap::new() };
        names.groups = names.of(&reader.rows("res_groups", people::GROUP).await?, "res.groups", "group");
        names.companies = names.of(&reader.rows("res_company", NAMED).await?, "", "company");
        let model = |row: &Record| Some((row.number("id")?, row.text("model")?));
        let fields: &[Field] = &[("id", Take::Clear), ("model", Take::Clear)];
        names.models = reader.rows("ir_model", fields).await?.iter().filter_map(model).collect();
        // Noted as omitted by the reads that matter; these were for names only.
        reader.omitted.clear();
        Ok(names)
    }

    /// Ids to names for all `rows` of one model.
    fn of(&self, rows: &[Record], model: &str, kind: &str) -> BTreeMap<i64, String> {
        let named = |row: &Record| row.number("id").map(|id| (id, self.stable(model, kind, id, row.text("name"))));
        rows.iter().filter_map(named).collect()
    }

    /// `module.name`, or `kind:NAME#id`.
    fn stable(&self, model: &str, kind: &str, id: i64, name: Option<String>) -> String {
        match self.external.get(&(model.to_owned(), id)) {
            Some(name) => name.clone(),
            None => format!("{kind}:{}#{id}", name.unwrap_or_default()),
        }
    }

    fn group(&self, id: i64) -> String {
        self.groups.get(&id).cloned().unwrap_or_else(|| format!("group:#{id}"))
    }
}

async fn facts(reader: &mut Reader<'_>) -> Result<BTreeMap<String, String>, AccessError> {
    let fields: &[Field] = &[("name", Take::Clear), ("latest_version", Take::Clear)];
    let modules = reader.rows_where("ir_module_module", fields, "t.state = 'installed'").await?;
    reader.omitted.retain(|omitted| omitted.table != "ir_module_module");
    let base = modules.iter().find(|row| row.text("name").as_deref() == Some("base"));
    let version = base.and_then(|row| row.text("latest_version")).unwrap_or_default();
    // Odoo 19 gave groups a privilege and stopped writing the closure.
    let memberships = if reader.has_column("res_groups", "privilege_id") { "explicit" } else { "closure" };
    let mut facts = BTreeMap::from([
        ("modules_installed".to_owned(), modules.len().to_string()),
        ("memberships".to_owned(), memberships.to_owned()),
        ("server_version".to_owned(), reader.server_version.clone()),
        ("captured_as_superuser".to_owned(), reader.superuser.to_string()),
    ]);
    if !version.is_empty() {
        facts.insert("odoo_version".to_owned(), version);
    }
    Ok(facts)
}
