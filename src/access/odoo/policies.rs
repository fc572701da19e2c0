//! Rules, model accesses, identity providers, parameters and mail servers: what shapes access besides groups.
//!
//! A **model access** only ever grants. A **global record rule** only ever restricts. A record rule with groups can do
//! either (it widens what its group may see beside the group's other rules, and narrows it where it is the only
//! one), so it describes. Parameters show their value only where the list below says that it is no secret.

use std::collections::{BTreeMap, BTreeSet};

use super::{Names, people};
use crate::access::AccessError;
use crate::access::reader::{Field, Reader, Record, Take};
use crate::access::roster::{Effect, Policy};

pub(super) async fn policies(reader: &mut Reader<'_>, names: &Names) -> Result<Vec<Policy>, AccessError> {
    let mut policies = record_rules(reader, names).await?;
    policies.extend(model_accesses(reader, names).await?);
    policies.extend(providers(reader).await?);
    policies.extend(parameters(reader).await?);
    policies.extend(mail_servers(reader).await?);
    Ok(policies)
}

const PERMISSIONS: [&str; 4] = ["perm_read", "perm_write", "perm_create", "perm_unlink"];

fn permissions(row: &Record) -> BTreeSet<String> {
    let given = |column: &&str| row.flag(column) == Some(true);
    PERMISSIONS.iter().filter(|column| given(column)).map(|column| column.replacen("perm_", "", 1)).collect()
}

fn attributes(row: &Record, columns: &[&str]) -> BTreeMap<String, String> {
    columns.iter().filter_map(|column| Some(((*column).to_owned(), row.text(column)?))).collect()
}

const RULE: &[Field] = &[
    ("id", Take::Clear),
    ("name", Take::Clear),
    ("model_id", Take::Clear),
    ("domain_force", Take::Clear),
    ("active", Take::Clear),
    ("perm_read", Take::Clear),
    ("perm_write", Take::Clear),
    ("perm_create", Take::Clear),
    ("perm_unlink", Take::Clear),
    ("global", Take::Clear),
];

async fn record_rules(reader: &mut Reader<'_>, names: &Names) -> Result<Vec<Policy>, AccessError> {
    let groups = people::pairs(reader, "rule_group_rel", "rule_group_id", "group_id").await?;
    let mut policies = Vec::new();
    for row in reader.rows("ir_rule", RULE).await? {
        let Some(id) = row.number("id") else { continue };
        let global = row.flag("global") == Some(true);
        let mut attributes = attributes(&row, &["domain_force"]);
        attributes.insert("global".to_owned(), global.to_string());
        attributes.insert("applies to".to_owned(), permissions(&row).into_iter().collect::<Vec<_>>().join(" "));
        attributes.insert("model".to_owned(), model(&row, names));
        policies.push(Policy {
            kind: "record rule".to_owned(),
            id: names.stable("ir.rule", "rule", id, row.text("name")),
            name: row.text("name").unwrap_or_default(),
            active: row.flag("active").unwrap_or(false),
            effect: if global { Effect::Restricts } else { Effect::Describes },
            subjects: groups.get(&id).into_iter().flatten().map(|id| names.group(*id)).collect(),
            grants: BTreeSet::new(),
            attributes,
            digests: BTreeMap::new(),
        });
    }
    Ok(policies)
}

fn model(row: &Record, names: &Names) -> String {
    row.number("model_id").and_then(|id| names.models.get(&id)).cloned().unwrap_or_default()
}

const ACCESS: &[Field] = &[
    ("id", Take::Clear),
    ("name", Take::Clear),
    ("model_id", Take::Clear),
    ("group_id", Take::Clear),
    ("active", Take::Clear),
    ("perm_read", Take::Clear),
    ("perm_write", Take::Clear),
    ("perm_create", Take::Clear),
    ("perm_unlink", Take::Clear),
];

async fn model_accesses(reader: &mut Reader<'_>, names: &Names) -> Result<Vec<Policy>, AccessError> {
    let mut policies = Vec::new();
    for row in reader.rows("ir_model_access", ACCESS).await? {
        let Some(id) = row.number("id") else { continue };
        policies.push(Policy {
            kind: "model access".to_owned(),
            id: names.stable("ir.model.access", "access", id, row.text("name")),
            name: row.text("name").unwrap_or_default(),
            active: row.flag("active").unwrap_or(false),
            effect: Effect::Grants,
            subjects: row.number("group_id").map(|id| names.group(id)).into_iter().collect(),
            grants: permissions(&row),
            attributes: BTreeMap::from([("model".to_owned(), model(&row, names))]),
            digests: BTreeMap::new(),
        });
    }
    Ok(policies)
}

const ENDPOINTS: [&str; 3] = ["auth_endpoint", "validation_endpoint", "data_endpoint"];

const PROVIDER: &[Field] = &[
    ("id", Take::Clear),
    ("name", Take::Clear),
    ("client_id", Take::Clear),
    ("scope", Take::Clear),
    ("enabled", Take::Clear),
    ("auth_endpoint", Take::Clear),
    ("validation_endpoint", Take::Clear),
    ("data_endpoint", Take::Clear),
    ("css_class", Take::Clear),
    ("body", Take::Clear),
    ("sequence", Take::Clear),
];

async fn providers(reader: &mut Reader<'_>) -> Result<Vec<Policy>, AccessError> {
    let mut policies = Vec::new();
    for row in reader.rows("auth_oauth_provider", PROVIDER).await? {
        let Some(id) = row.number("id") else { continue };
        let mut attributes = attributes(&row, &["scope"]);
        let mut digests = BTreeMap::new();
        for column in ENDPOINTS {
            let Some(text) = row.text(column) else { continue };
            digests.insert(column.to_owned(), reader.digest(column, text.as_bytes()));
            attributes.insert(column.to_owned(), bare_url(&text));
        }
        match row.text("client_id") {
            // "Odoo.com Accounts" uses the database's uuid, which is shown nowhere.
            Some(client) if is_uuid(&client) => {
                digests.insert("client_id".to_owned(), reader.digest("client_id", client.as_bytes()));
            }
            Some(client) => {
                attributes.insert("client_id".to_owned(), client);
            }
            None => {}
        }
        policies.push(Policy {
            kind: "oauth provider".to_owned(),
            id: id.to_string(),
            name: row.text("name").unwrap_or_default(),
            active: row.flag("enabled").unwrap_or(false),
            effect: Effect::Grants,
            subjects: BTreeSet::new(),
            grants: BTreeSet::from(["sign-in".to_owned()]),
            attributes,
            digests,
        });
    }
    Ok(policies)
}

fn is_uuid(text: &str) -> bool {
    let form = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(form)
}

/// A URL without what may be secret in it: user, password, query, fragment.
fn bare_url(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return "(no URL)".to_owned() };
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// Parameters whose value is no secret and matters for signing in. All others are digests.
const SHOWN: &[&str] = &[
    "auth_password_policy.minlength",
    "auth_signup.invitation_scope",
    "auth_signup.reset_password",
    "base.login_cooldown_after",
    "base.login_cooldown_duration",
    "base.template_portal_user_id",
    "database.create_date",
    "database.is_neutralized",
    "ir_attachment.location",
    "password.hashing.rounds",
    "sessions.max_inactivity_seconds",
    "web.base.url.freeze",
];

async fn parameters(reader: &mut Reader<'_>) -> Result<Vec<Policy>, AccessError> {
    // Two reads, so that only the values on the list leave the server.
    let clear = reader.rows_where("ir_config_parameter", PARAMETER_SHOWN, SHOWN_CONDITION).await?;
    reader.omitted.retain(|omitted| omitted.table != "ir_config_parameter");
    let shown: BTreeMap<String, String> =
        clear.iter().filter_map(|row| Some((row.text("key")?, row.text("value").unwrap_or_default()))).collect();
    let fields: &[Field] = &[("key", Take::Clear), ("value", Take::Digest)];
    let mut policies = Vec::new();
    for row in reader.rows("ir_config_parameter", fields).await? {
        let Some(key) = row.text("key") else { continue };
        let value = match (shown.get(&key), key.as_str()) {
            (Some(url), "web.base.url") => Some(bare_url(url)),
            (Some(value), key) if SHOWN.contains(&key) => Some(value.clone()),
            _ => None,
        };
        let digest = row.digest("value").filter(|_| !SHOWN.contains(&key.as_str()));
        policies.push(Policy {
            kind: "parameter".to_owned(),
            id: key.clone(),
            name: key,
            active: true,
            effect: Effect::Describes,
            subjects: BTreeSet::new(),
            grants: BTreeSet::new(),
            attributes: value.map(|value| ("value".to_owned(), value)).into_iter().collect(),
            digests: digest.map(|digest| ("value".to_owned(), digest)).into_iter().collect(),
        });
    }
    Ok(policies)
}

const PARAMETER_SHOWN: &[Field] = &[("key", Take::Clear), ("value", Take::Clear)];

/// [`SHOWN`] and the base URL, as SQL; a test keeps the two in step.
const SHOWN_CONDITION: &str = "t.key IN ('auth_password_policy.minlength', 'auth_signup.invitation_scope', \
     'auth_signup.reset_password', 'base.login_cooldown_after', 'base.login_cooldown_duration', \
     'base.template_portal_user_id', 'database.create_date', 'database.is_neutralized', 'ir_attachment.location', \
     'password.hashing.rounds', 'sessions.max_inactivity_seconds', 'web.base.url.freeze', 'web.base.url')";

const OUTGOING: &[Field] = &[
    ("id", Take::Clear),
    ("name", Take::Clear),
    ("active", Take::Clear),
    ("smtp_host", Take::Clear),
    ("smtp_port", Take::Clear),
    ("smtp_encryption", Take::Clear),
    ("smtp_authentication", Take::Clear),
    ("smtp_user", Take::Clear),
    ("smtp_pass", Take::Digest),
    ("smtp_ssl_private_key", Take::Digest),
    ("google_gmail_refresh_token", Take::Digest),
    ("microsoft_outlook_refresh_token", Take::Digest),
];

const INCOMING: &[Field] = &[
    ("id", Take::Clear),
    ("name", Take::Clear),
    ("active", Take::Clear),
    ("server", Take::Clear),
    ("port", Take::Clear),
    ("server_type", Take::Clear),
    ("is_ssl", Take::Clear),
    ("user", Take::Clear),
    ("password", Take::Digest),
    ("google_gmail_refresh_token", Take::Digest),
    ("microsoft_outlook_refresh_token", Take::Digest),
];

/// Servers that the database signs in to with secrets of its own.
async fn mail_servers(reader: &mut Reader<'_>) -> Result<Vec<Policy>, AccessError> {
    let mut policies = Vec::new();
    let tables =
        [("ir_mail_server", OUTGOING, "outgoing mail server"), ("fetchmail_server", INCOMING, "incoming mail server")];
    for (table, fields, kind) in tables {
        for row in reader.rows(table, fields).await? {
            let Some(id) = row.number("id") else { continue };
            let clear = |field: &&Field| field.1 == Take::Clear && !["id", "name", "active"].contains(&field.0);
            let columns: Vec<&str> = fields.iter().filter(clear).map(|(name, _)| *name).collect();
            let secret =
                |(name, take): &Field| Some(((*name).to_owned(), row.digest(name)?)).filter(|_| *take != Take::Clear);
            policies.push(Policy {
                kind: kind.to_owned(),
                id: id.to_string(),
                name: row.text("name").unwrap_or_default(),
                active: row.flag("active").unwrap_or(false),
                effect: Effect::Describes,
                subjects: BTreeSet::new(),
                grants: BTreeSet::new(),
                attributes: attributes(&row, &columns),
                digests: fields.iter().filter_map(secret).collect(),
            });
        }
    }
    Ok(policies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_has_no_user_no_password_and_no_query() {
        assert_eq!(bare_url("https://u:p@idp.test/realm/auth?client_secret=x#y"), "https://idp.test/realm/auth");
        assert_eq!(bare_url("https://u:p@w@idp.test"), "https://idp.test");
        assert_eq!(bare_url("https://idp.test/a@b"), "https://idp.test/a@b");
        assert_eq!(bare_url("u:p@idp.test/realm"), "(no URL)");
    }

    #[test]
    fn the_list_of_shown_parameters_and_the_condition_are_the_same() {
        let quoted: Vec<&str> = SHOWN_CONDITION.split('\'').skip(1).step_by(2).collect();
        let listed: Vec<&str> = SHOWN.iter().copied().chain(["web.base.url"]).collect();
        assert_eq!(quoted, listed);
    }
}
