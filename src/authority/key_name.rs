//! What lies in a keys store, by name.
//!
//! ```text
//! <scope>/<epoch>.age                    the scope's identity, sealed to the custody key
//! <scope>/<epoch>.drill.age              the same, sealed to the drill host; where the tenant opted in
//! <scope>/copies/<name>.json             a copy of the identity that somebody keeps elsewhere
//! custody/<n>/<who>[.<who>...].age       the custody key of generation n, sealed to one allowed group
//! custody/<n>/earlier/<m>.age            the custody key of generation m, sealed to that of n
//! custody/<n>/manifest.json              all of the above; written last
//! proofs/<who>/<time>-<rand>.challenge.json, .proof.json
//! ```
//!
//! Parsing is strict: what this module would not have written is not a name, and nobody acts on it.

use std::fmt;
use std::str::FromStr;

use crate::ids::{IdError, Scope, is_plain_name};
use crate::repo::name::Stamp;

/// See the module's page.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyName {
    Scope { scope: Scope, epoch: u32 },
    Drill { scope: Scope, epoch: u32 },
    Copy { scope: Scope, name: String },
    Group { custody: u32, group: Vec<String> },
    Earlier { custody: u32, earlier: u32 },
    Manifest { custody: u32 },
    Challenge { custodian: String, stamp: Stamp },
    Proof { custodian: String, stamp: Stamp },
}

impl KeyName {
    /// The scope and epoch whose identity is in it, whoever can open it.
    #[must_use]
    pub fn identity_of(&self) -> Option<(&Scope, u32)> {
        match self {
            Self::Scope { scope, epoch } | Self::Drill { scope, epoch } => Some((scope, *epoch)),
            _ => None,
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope { scope, epoch } => write!(f, "{scope}/{epoch}.age"),
            Self::Drill { scope, epoch } => write!(f, "{scope}/{epoch}.drill.age"),
            Self::Copy { scope, name } => write!(f, "{scope}/copies/{name}.json"),
            Self::Group { custody, group } => write!(f, "custody/{custody}/{}.age", group.join(".")),
            Self::Earlier { custody, earlier } => write!(f, "custody/{custody}/earlier/{earlier}.age"),
            Self::Manifest { custody } => write!(f, "custody/{custody}/manifest.json"),
            Self::Challenge { custodian, stamp } => write!(f, "proofs/{custodian}/{stamp}.challenge.json"),
            Self::Proof { custodian, stamp } => write!(f, "proofs/{custodian}/{stamp}.proof.json"),
        }
    }
}

impl FromStr for KeyName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let parts: Vec<&str> = text.split('/').collect();
        let name = match parts.as_slice() {
            ["custody", n, rest @ ..] => custody(n, rest),
            ["proofs", who, file] if is_plain_name(who) => proof(who, file),
            parts => scoped(parts),
        };
        // What parses but prints otherwise (a leading zero) would be a second name for one thing.
        let wrong = || IdError { text: text.to_owned(), wanted: "the name of a key file" };
        name.filter(|name| name.to_string() == text).ok_or_else(wrong)
    }
}

fn custody(n: &str, rest: &[&str]) -> Option<KeyName> {
    let custody = n.parse().ok()?;
    match rest {
        ["manifest.json"] => Some(KeyName::Manifest { custody }),
        ["earlier", file] => Some(KeyName::Earlier { custody, earlier: file.strip_suffix(".age")?.parse().ok()? }),
        [file] => {
            let group: Vec<String> = file.strip_suffix(".age")?.split('.').map(str::to_owned).collect();
            group.iter().all(|name| is_plain_name(name)).then_some(KeyName::Group { custody, group })
        }
        _ => None,
    }
}

fn proof(who: &str, file: &str) -> Option<KeyName> {
    let custodian = who.to_owned();
    if let Some(stamp) = file.strip_suffix(".challenge.json") {
        return Some(KeyName::Challenge { custodian, stamp: Stamp::parse(stamp)? });
    }
    Some(KeyName::Proof { custodian, stamp: Stamp::parse(file.strip_suffix(".proof.json")?)? })
}

fn scoped(parts: &[&str]) -> Option<KeyName> {
    let split = if parts.first() == Some(&"estate") { 1 } else { 2 };
    let scope: Scope = parts.get(..split)?.join("/").parse().ok()?;
    match parts.get(split..)? {
        ["copies", file] => {
            let name = file.strip_suffix(".json").filter(|name| is_plain_name(name))?.to_owned();
            Some(KeyName::Copy { scope, name })
        }
        [file] => {
            let file = file.strip_suffix(".age")?;
            match file.strip_suffix(".drill") {
                Some(epoch) => Some(KeyName::Drill { scope, epoch: epoch.parse().ok()? }),
                None => Some(KeyName::Scope { scope, epoch: file.parse().ok()? }),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_nothing_else_is_one() {
        for text in [
            "tenant/acme/1.age",
            "estate/12.age",
            "tenant/acme/1.drill.age",
            "cluster/main/copies/paper-safe.json",
            "custody/2/alice.bob.age",
            "custody/2/earlier.age",
            "custody/2/earlier/1.age",
            "custody/2/manifest.json",
            "proofs/alice/20261122T072400Z-1a2b3c4d.challenge.json",
            "proofs/alice/20261122T072400Z-1a2b3c4d.proof.json",
        ] {
            assert_eq!(text.parse::<KeyName>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "tenant/acme/01.age",
            "tenant/acme/+1.age",
            "tenant/acme/1.age.age",
            "tenant/../1.age",
            "custody/1/.age",
            "custody/1/alice..bob.age",
            "custody/1/Alice.age",
            "custody/1/earlier/x.age",
            "proofs/alice/now.proof.json",
            "tenant/acme/copies/a/b.json",
        ] {
            assert!(text.parse::<KeyName>().is_err(), "{text}");
        }
    }
}
