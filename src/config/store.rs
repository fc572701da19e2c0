//! `[store]`, and every other table that names a place to keep things (`[copies.NAME]`, `[keys.stores.NAME]`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::item::{Item, plain_name};
use super::table::Table;
pub use crate::ids::Role;

/// Where things are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// A folder of this machine.
    Local { path: PathBuf },
    /// A bucket with Object Lock.
    S3(S3Config),
}

/// A bucket, and how it is reached. Credentials come from the usual AWS chain (environment, profile, web identity,
/// container, instance); never from this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    pub bucket: String,
    /// Put before every object's name, without a slash at its ends; empty for none.
    pub prefix: String,
    /// `None`: what the AWS chain says.
    pub region: Option<String>,
    /// `None`: AWS. Otherwise a URL: Ceph and others.
    pub endpoint: Option<String>,
    /// The bucket stands in the path rather than in the host's name.
    pub path_style: bool,
    /// Certificates that sign the endpoint's, PEM; instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The AWS profile to use, for every role that `profiles` does not name.
    pub profile: Option<String>,
    /// The AWS profile by role, where one machine acts in several.
    pub profiles: BTreeMap<Role, String>,
    /// How many requests may be under way at once.
    pub requests: u32,
    /// Write there although the store's last honesty drill found that it does not keep its locks.
    pub accept_dishonest: bool,
}

impl S3Config {
    /// The AWS profile for `role`; `None` where the environment decides.
    #[must_use]
    pub fn profile_for(&self, role: Role) -> Option<&str> {
        self.profiles.get(&role).or(self.profile.as_ref()).map(String::as_str)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Local,
    S3,
}

pub(super) fn store(table: Table<'_>) -> StoreConfig {
    let kind = table.need("kind", |item| item.one_of(&[("local", Kind::Local), ("s3", Kind::S3)]));
    let store = match kind {
        // An unknown kind was said; the keys are read as a folder's so that they are not called unknown one by one.
        Some(Kind::S3) => StoreConfig::S3(s3(&table)),
        Some(Kind::Local) | None => StoreConfig::Local { path: table.need("path", Item::path).unwrap_or_default() },
    };
    table.finish();
    store
}

/// What the estate's own store is called where copies are named; no copy may have the name.
pub const PRIMARY: &str = "primary";

pub(super) fn copies(root: &Table<'_>) -> BTreeMap<String, StoreConfig> {
    let mut copies = BTreeMap::new();
    for (name, item) in root.named("copies") {
        match plain_name(&name) {
            Ok(()) if name == PRIMARY => item.report("is what the estate's own store is called; choose another name"),
            Ok(()) => {}
            Err(what) => item.report(what),
        }
        copies.insert(name, store(item.table()));
    }
    copies
}

fn s3(table: &Table<'_>) -> S3Config {
    let endpoint = table.take("endpoint", url);
    S3Config {
        bucket: table.need("bucket", bucket).unwrap_or_default(),
        prefix: table.take("prefix", prefix).unwrap_or_default(),
        region: table.take("region", Item::text),
        path_style: table.take("path_style", Item::flag).unwrap_or(endpoint.is_some()),
        endpoint,
        ca_file: table.take("ca_file", Item::path),
        profile: table.take("profile", Item::text),
        profiles: profiles(&table.table("profiles")),
        requests: table.take("requests", |item| item.whole(1..257)).unwrap_or(16),
        accept_dishonest: table.take("accept_dishonest", Item::flag).unwrap_or(false),
    }
}

fn profiles(table: &Table<'_>) -> BTreeMap<Role, String> {
    let each = Role::ALL.into_iter().filter_map(|role| Some((role, table.take(role.name(), Item::text)?)));
    let profiles = each.collect();
    table.refuse_unknown();
    profiles
}

/// Whether a bucket may be called so (S3 User Guide, "General purpose bucket naming rules").
#[must_use]
pub fn is_bucket_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || b == b'-' || b == b'.')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
        && !name.contains("..")
}

/// Whether all its parts between slashes are plain names.
#[must_use]
pub fn is_prefix(text: &str) -> bool {
    text.split('/').all(crate::ids::is_plain_name)
}

fn bucket(item: &Item<'_>) -> Result<String, String> {
    let name = item.text()?;
    if is_bucket_name(&name) { Ok(name) } else { Err(format!("'{name}' is not a bucket's name")) }
}

fn prefix(item: &Item<'_>) -> Result<String, String> {
    let text = item.text()?;
    if is_prefix(&text) {
        return Ok(text);
    }
    Err(format!("'{text}' is not a prefix: plain names with '/' between them"))
}

fn url(item: &Item<'_>) -> Result<String, String> {
    let text = item.text()?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest.map(|rest| rest.trim_end_matches('/')) {
        // What stands before an '@' would be a credential, and is not repeated.
        Some(rest) if rest.contains('@') => Err("must not carry a user or password".to_owned()),
        Some(rest) if !rest.is_empty() && !rest.contains(['/', '?', '#', ' ']) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("is not a URL like \"https://s3.example.com:7480\"".to_owned()),
    }
}
