//! The custody key: one age identity that opens every scope's key file, and that no custodian can open alone.
//!
//! k of n without new cryptography: for every allowed group of custodians the key is sealed to one of them, that to the next, and so on
//! ([`nested`]). A **generation** ([`generation`]) is one custody key with all its groups; another one begins when custodians change. The key of
//! the one before is kept, sealed to the new one, so that what was sealed earlier stays readable to whoever holds now.
//!
//! What a holder change does not undo: somebody who left may still open, together with others, the files of his time that he or they copied.
//! New epochs (`key rotate`) are out of their reach.

pub mod generation;
pub mod nested;
pub mod proof;

use std::collections::{BTreeMap, BTreeSet};

use age::x25519::Recipient;

use super::key_name::KeyName;
use super::key_stores::KeyStoreError;
use crate::failure::{self, Failure, Kind};
use crate::repo::key::KeyError;
use crate::repo::seal::SealError;

/// What goes wrong with custody. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    #[error(transparent)]
    Stores(#[from] KeyStoreError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the custody key could not be sealed")]
    Seal(#[source] SealError),
    #[error("there is no custody key yet")]
    None,
    #[error("the keys stores do not agree on the custody key: {what}")]
    Disagree { what: String },
    #[error("the custody key is sealed to other custodians than the configuration names: {what}")]
    Changed { what: String },
    #[error("custodians and groups are as they were")]
    Unchanged,
    #[error("the identities of {here} are here; together must be {needed}")]
    NotEnough { here: String, needed: String },
    #[error("{name}: does not open with the keys it is sealed to, in no version of either store")]
    Damaged { name: String },
    #[error("'{name}' is no custodian")]
    Stranger { name: String },
    #[error("the answer of {name} is not that to any challenge made for him")]
    WrongAnswer { name: String },
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

impl CustodyError {
    /// Why stores that share no custody key must not begin one, from the names of what they hold: keys that are sealed were sealed to one
    /// that is still in some store. `None` where there is nothing yet.
    pub fn lost<'a>(names: impl IntoIterator<Item = &'a KeyName>) -> Option<Self> {
        let sealed = names.into_iter().any(|name| matches!(name, KeyName::Scope { .. }));
        sealed.then(|| Self::Disagree { what: "there are sealed keys, and no custody key is in both".to_owned() })
    }
}

impl From<getrandom::Error> for CustodyError {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error)
    }
}

impl From<CustodyError> for Failure {
    fn from(error: CustodyError) -> Self {
        let cause = failure::chain(&error);
        let (kind, next) = match error {
            CustodyError::Stores(error) => return error.into(),
            CustodyError::Key(error) => return error.into(),
            CustodyError::None => (Kind::Usage, "make it with `lifeboat key split`"),
            CustodyError::Disagree { .. } => (
                Kind::Integrity,
                "ask both administrators; nothing is sealed to a key that only one of them vouches for; where one store was lost, \
                 pin keys.custody.recipient and run `lifeboat key renew --mend`",
            ),
            CustodyError::Changed { .. } => (
                Kind::Usage,
                "run `lifeboat key split` with enough of the present custodians, or put the configuration back",
            ),
            CustodyError::Unchanged => {
                (Kind::Usage, "there is nothing to do; --anew makes another custody key all the same")
            }
            CustodyError::NotEnough { .. } => (Kind::Refused, "bring more custodians' identity files (--with FILE)"),
            CustodyError::Damaged { name } => {
                return Self::new(
                    Kind::Integrity,
                    name,
                    cause,
                    "try another group of custodians, or the other keys store",
                );
            }
            CustodyError::Stranger { name } => {
                return Self::new(Kind::Usage, name, cause, "name one of [keys.custody.custodians]");
            }
            CustodyError::WrongAnswer { name } => {
                return Self::new(
                    Kind::Refused,
                    name,
                    cause,
                    "make a new challenge with `lifeboat key prove NAME --out FILE`",
                );
            }
            CustodyError::Seal(_) | CustodyError::Random(_) => (Kind::Failed, "run the command again"),
        };
        Self::new(kind, "custody", cause, next)
    }
}

/// Who the custodians are, and which groups of them are enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub custodians: BTreeMap<String, Recipient>,
    /// Each in the order of its names, which is the order of sealing from the outside in.
    pub allowed: BTreeSet<Vec<String>>,
}

impl Rule {
    /// The first allowed group whose members are all among `here`.
    ///
    /// # Errors
    /// `NotEnough`, with every group that would be.
    pub fn group_among(&self, here: &BTreeSet<String>) -> Result<&Vec<String>, CustodyError> {
        self.allowed.iter().find(|group| group.iter().all(|name| here.contains(name))).ok_or_else(|| {
            let shown = |group: &Vec<String>| group.join(" and ");
            CustodyError::NotEnough {
                here: if here.is_empty() {
                    "nobody".into()
                } else {
                    here.iter().cloned().collect::<Vec<_>>().join(", ")
                },
                needed: self.allowed.iter().map(shown).collect::<Vec<_>>().join(", or "),
            }
        })
    }
}
