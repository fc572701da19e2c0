//! The identities found in one layer at one time, in the form that every layer shares.
//!
//! A roster is **people** (whoever can prove to be somebody: users, service accounts, roles) with their credentials and
//! groups, **groups** with what they imply, and **policies** (rules, grants, providers, parameters). Everything is sorted,
//! so that equal states give equal JSON. It has no secret: of a credential only a digest under the tenant's key.
//! It says who names people, so it is sealed in the tenant's scope like the data.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Lsn};

/// The version of this form.
pub const FORMAT: u32 = 1;

/// One layer at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    pub format: u32,
    /// `odoo`, `postgres`, …
    pub layer: String,
    pub tenant: Option<String>,
    pub database: Option<String>,
    /// When it was taken.
    pub captured_at: Timestamp,
    /// The time of the state it describes: `captured_at` for a live database, the last commit for a restored one.
    pub as_of: Timestamp,
    /// The server's WAL position just after the state was fixed.
    pub lsn: Option<Lsn>,
    /// Tells rosters under one key from others: the keyed digest of a constant.
    pub key_check: Digest,
    /// What a person reading it should know: versions, how memberships are stored, who captured.
    pub facts: BTreeMap<String, String>,
    pub people: Vec<Person>,
    pub groups: Vec<Group>,
    pub policies: Vec<Policy>,
    /// Columns that are there and were not taken, because no allow-list names them.
    pub omitted: Vec<Omitted>,
}

/// Somebody who can sign in, or could.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// What a restore does not change: Odoo's `res_users.id`, a role's name.
    pub id: String,
    /// What he signs in with.
    pub login: String,
    pub active: bool,
    pub kind: PersonKind,
    /// Groups he was given. Odoo before 19 stores the closure here ([`Roster::facts`], `memberships`).
    pub groups: BTreeSet<String>,
    /// Those and all they imply: what counts.
    pub effective: BTreeSet<String>,
    /// Companies, databases: where it counts.
    pub places: BTreeSet<String>,
    pub credentials: Vec<Credential>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PersonKind {
    /// Of the tenant's own house.
    Internal,
    /// Portal users and other guests.
    External,
    /// Made by the software itself.
    System,
}

/// A way to prove to be somebody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Credential {
    pub kind: CredentialKind,
    /// The layer's own id for it, where it has one.
    pub id: Option<String>,
    pub name: Option<String>,
    /// HMAC-SHA256 under the tenant's key of the SHA-256 of what is stored. Equal: the same credential.
    pub digest: Option<Digest>,
    /// What it is limited to; none: everything its owner may do.
    pub scope: Option<String>,
    pub expires: Option<Timestamp>,
    pub strength: Option<Strength>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    Password,
    /// A time-based second factor.
    Totp,
    ApiKey,
    /// A browser that is not asked for the second factor.
    TrustedDevice,
    Passkey,
    /// A subject at an identity provider.
    OauthLink,
    /// The provider's last token; Odoo accepts it as a password on RPC.
    OauthToken,
}

impl CredentialKind {
    /// Whether a person has at most one, so that a new value replaces the old.
    #[must_use]
    pub fn single(self) -> bool {
        matches!(self, Self::Password | Self::Totp | Self::OauthLink | Self::OauthToken)
    }

    /// What people call it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Totp => "second factor (TOTP)",
            Self::ApiKey => "API key",
            Self::TrustedDevice => "trusted device",
            Self::Passkey => "passkey",
            Self::OauthLink => "sign-in through an identity provider",
            Self::OauthToken => "identity provider's token",
        }
    }
}

impl Credential {
    /// Whether it can be used at `now`, its owner being active.
    #[must_use]
    pub fn usable(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

/// How hard a stored password is to find.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Strength {
    /// `pbkdf2-sha512`, `scram-sha-256`, `md5`, `plain`, `other`.
    pub scheme: String,
    /// Rounds of the hash; 0 where it has none.
    pub rounds: u32,
}

impl Strength {
    /// Whether `self` is easier to find than `other`.
    #[must_use]
    pub fn below(&self, other: &Self) -> bool {
        let rank = |scheme: &str| match scheme {
            "plain" => 0,
            "md5" => 1,
            "other" => 2,
            _ => 3,
        };
        let (ours, theirs) = (rank(&self.scheme), rank(&other.scheme));
        ours < theirs || (self.scheme == other.scheme && self.rounds < other.rounds)
    }
}

/// A named set of rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// `module.name` where the software gives one, else `group:NAME#id`.
    pub name: String,
    /// Groups that come with it, one step.
    pub implies: BTreeSet<String>,
    pub attributes: BTreeMap<String, String>,
}

/// A rule, a grant, a provider, a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `model access`, `record rule`, `oauth provider`, `parameter`, `mail server`, …
    pub kind: String,
    /// Stable within its kind.
    pub id: String,
    pub name: String,
    pub active: bool,
    pub effect: Effect,
    /// Groups it is for; none: everyone.
    pub subjects: BTreeSet<String>,
    /// What it gives, where [`Effect::Grants`].
    pub grants: BTreeSet<String>,
    pub attributes: BTreeMap<String, String>,
    /// Secrets it holds, by field.
    pub digests: BTreeMap<String, Digest>,
}

/// What a policy's presence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Without it somebody may do less.
    Grants,
    /// Without it somebody may do more.
    Restricts,
    /// Neither can be said from it alone.
    Describes,
}

/// Columns of one table that were left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Omitted {
    pub table: String,
    pub columns: BTreeSet<String>,
}

impl Roster {
    /// Puts everything into the canonical order; each layer ends with it.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.people.sort_by(|a, b| (&a.login, &a.id).cmp(&(&b.login, &b.id)));
        for person in &mut self.people {
            person.credentials.sort();
        }
        self.groups.sort_by(|a, b| a.name.cmp(&b.name));
        self.policies.sort_by(|a, b| (&a.kind, &a.id).cmp(&(&b.kind, &b.id)));
        self.omitted.sort();
        self
    }
}

/// Everything that `given` brings, through any number of steps; loops end.
#[must_use]
pub fn closure(given: &BTreeSet<String>, implies: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut all = given.clone();
    let mut open: Vec<&String> = given.iter().collect();
    while let Some(group) = open.pop() {
        for next in implies.get(group).into_iter().flatten() {
            if all.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_closure_goes_through_every_step_and_a_loop_ends() {
        let implies = BTreeMap::from([
            ("a".to_owned(), set(&["b"])),
            ("b".to_owned(), set(&["c", "a"])),
            ("x".to_owned(), set(&["y"])),
        ]);
        assert_eq!(closure(&set(&["a"]), &implies), set(&["a", "b", "c"]));
        assert_eq!(closure(&set(&[]), &implies), set(&[]));
    }

    #[test]
    fn fewer_rounds_or_a_weaker_scheme_is_below() {
        let strength = |scheme: &str, rounds| Strength { scheme: scheme.to_owned(), rounds };
        assert!(strength("pbkdf2-sha512", 25_000).below(&strength("pbkdf2-sha512", 600_000)));
        assert!(strength("md5", 0).below(&strength("scram-sha-256", 4096)));
        assert!(strength("plain", 0).below(&strength("other", 0)));
        assert!(!strength("pbkdf2-sha512", 600_000).below(&strength("pbkdf2-sha512", 600_000)));
    }
}
