//! Users, their credentials and their groups, from `res_users` and the tables around it.

use std::collections::{BTreeMap, BTreeSet};

use super::Names;
use crate::access::AccessError;
use crate::access::reader::{Field, Reader, Record, Take};
use crate::access::roster::{Credential, CredentialKind, Group, Person, PersonKind, Strength, closure};

pub(super) const GROUP: &[Field] = &[
    ("id", Take::Clear),
    ("name", Take::Clear),
    ("share", Take::Clear),
    ("api_key_duration", Take::Clear),
    // Known, and of no consequence for who may do what.
    ("sequence", Take::Clear),
    ("privilege_id", Take::Clear),
    ("category_id", Take::Clear),
    ("color", Take::Clear),
];

/// Groups, with what each implies in one step.
pub(super) async fn groups(reader: &mut Reader<'_>, names: &Names) -> Result<Vec<Group>, AccessError> {
    let implied = pairs(reader, "res_groups_implied_rel", "gid", "hid").await?;
    let mut groups = Vec::new();
    for row in reader.rows("res_groups", GROUP).await? {
        let Some(id) = row.number("id") else { continue };
        let attributes = ["share", "api_key_duration"];
        let attributes = attributes.iter().filter_map(|name| Some(((*name).to_owned(), row.text(name)?))).collect();
        let implies = implied.get(&id).into_iter().flatten().map(|id| names.group(*id)).collect();
        groups.push(Group { name: names.group(id), implies, attributes });
    }
    Ok(groups)
}

const USER: &[Field] = &[
    ("id", Take::Clear),
    ("login", Take::Clear),
    ("active", Take::Clear),
    ("share", Take::Clear),
    ("password", Take::Password),
    ("totp_secret", Take::Digest),
    ("oauth_provider_id", Take::Clear),
    ("oauth_uid", Take::Digest),
    ("oauth_access_token", Take::Digest),
];

/// Everybody in `res_users`, archived ones included.
pub(super) async fn people(
    reader: &mut Reader<'_>,
    names: &Names,
    groups: &[Group],
) -> Result<Vec<Person>, AccessError> {
    let implies: BTreeMap<String, BTreeSet<String>> =
        groups.iter().map(|group| (group.name.clone(), group.implies.clone())).collect();
    let members = pairs(reader, "res_groups_users_rel", "uid", "gid").await?;
    let companies = pairs(reader, "res_company_users_rel", "user_id", "cid").await?;
    let company = |id: &i64| names.companies.get(id).cloned().unwrap_or_else(|| format!("company:#{id}"));
    let mut credentials = keys(reader).await?;
    let mut people = Vec::new();
    for row in reader.rows("res_users", USER).await? {
        let Some(id) = row.number("id") else { continue };
        let given = members.get(&id).into_iter().flatten().map(|id| names.group(*id)).collect();
        let mut own = credentials.remove(&id).unwrap_or_default();
        own.extend(on_the_user(&row));
        people.push(Person {
            id: id.to_string(),
            login: row.text("login").unwrap_or_default(),
            active: row.flag("active").unwrap_or(false),
            kind: kind(&row, id, names),
            effective: closure(&given, &implies),
            groups: given,
            places: companies.get(&id).into_iter().flatten().map(company).collect(),
            credentials: own,
        });
    }
    Ok(people)
}

fn kind(row: &Record, id: i64, names: &Names) -> PersonKind {
    let system = ["base.user_root", "base.public_user", "base.template_portal_user_id", "base.default_user"];
    match names.external.get(&("res.users".to_owned(), id)) {
        Some(name) if system.contains(&name.as_str()) => PersonKind::System,
        _ if row.flag("share") == Some(true) => PersonKind::External,
        _ => PersonKind::Internal,
    }
}

/// What `res_users` itself holds.
fn on_the_user(row: &Record) -> Vec<Credential> {
    let single = |kind, column| {
        let digest = row.digest(column)?;
        Some(Credential {
            kind,
            id: None,
            name: None,
            digest: Some(digest),
            scope: None,
            expires: None,
            strength: None,
        })
    };
    let mut password = single(CredentialKind::Password, "password");
    if let (Some(password), Some(scheme)) = (&mut password, row.text("password scheme")) {
        let rounds = row.text("password rounds").and_then(|rounds| rounds.parse().ok()).unwrap_or(0);
        password.strength = Some(Strength { scheme, rounds });
    }
    let mut link = single(CredentialKind::OauthLink, "oauth_uid");
    if let Some(link) = &mut link {
        // The same subject at another provider is somebody else.
        link.id = row.number("oauth_provider_id").map(|id| format!("provider {id}"));
    }
    let totp = single(CredentialKind::Totp, "totp_secret");
    let token = single(CredentialKind::OauthToken, "oauth_access_token");
    [password, totp, link, token].into_iter().flatten().collect()
}

const KEY: &[Field] = &[
    ("id", Take::Clear),
    ("name", Take::Clear),
    ("user_id", Take::Clear),
    ("scope", Take::Clear),
    ("expiration_date", Take::Clear),
    ("key", Take::Digest),
    // The first eight characters of the key itself, in clear.
    ("index", Take::Digest),
];

const PASSKEY: &[Field] = &[
    ("id", Take::Clear),
    ("name", Take::Clear),
    ("create_uid", Take::Clear),
    ("credential_identifier", Take::Digest),
    ("public_key", Take::Digest),
    ("sign_count", Take::Clear),
];

/// API keys, trusted devices and passkeys, by user.
async fn keys(reader: &mut Reader<'_>) -> Result<BTreeMap<i64, Vec<Credential>>, AccessError> {
    let mut by_user: BTreeMap<i64, Vec<Credential>> = BTreeMap::new();
    let tables = [
        ("res_users_apikeys", KEY, CredentialKind::ApiKey, "user_id"),
        ("auth_totp_device", KEY, CredentialKind::TrustedDevice, "user_id"),
        ("auth_passkey_key", PASSKEY, CredentialKind::Passkey, "create_uid"),
    ];
    for (table, fields, kind, owner) in tables {
        for row in reader.rows(table, fields).await? {
            let Some(user) = row.number(owner) else { continue };
            let digest = match kind {
                CredentialKind::Passkey => {
                    let part = |column| row.digest(column).map(|digest| digest.to_string()).unwrap_or_default();
                    let both = format!("{} {}", part("credential_identifier"), part("public_key"));
                    Some(reader.digest("passkey", both.as_bytes()))
                }
                _ => row.digest("key"),
            };
            by_user.entry(user).or_default().push(Credential {
                kind,
                id: row.number("id").map(|id| id.to_string()),
                name: row.text("name"),
                digest,
                scope: row.text("scope"),
                expires: row.time("expiration_date"),
                strength: None,
            });
        }
    }
    Ok(by_user)
}

/// A relation table as a map from one column to the other.
pub(super) async fn pairs(
    reader: &mut Reader<'_>,
    table: &'static str,
    from: &'static str,
    to: &'static str,
) -> Result<BTreeMap<i64, BTreeSet<i64>>, AccessError> {
    let mut map: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    for row in reader.rows(table, &[(from, Take::Clear), (to, Take::Clear)]).await? {
        if let (Some(from), Some(to)) = (row.number(from), row.number(to)) {
            map.entry(from).or_default().insert(to);
        }
    }
    Ok(map)
}
