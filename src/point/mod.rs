//! Points: the sets and the LSN of one tenant that belong together; what can be restored, and where a target lies.

pub mod bound;
pub mod stored;
pub mod target;
pub mod window;

pub use window::{PointFacts, Run, Window};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{DbOid, Scope};
use crate::repo::envelope::ObjectRef;
use crate::repo::set_writer::StoredSet;

/// What a set is for in a point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "role", content = "of")]
pub enum SetRole {
    /// The cluster's share of the base backup; always exactly one.
    ClusterBase,
    /// A scope's share of the base backup: the tenant's, or a spare's that one of its databases had.
    Base,
    /// The files of a database.
    Filestore(String),
    /// Who may do what, by layer and database (`odoo/acme`, `postgres`).
    Access(String),
}

impl SetRole {
    /// The entry that a point's body carries for `set`.
    #[must_use]
    pub fn reference(&self, set: &StoredSet) -> SetReference {
        SetReference { role: self.clone(), scope: set.envelope.scope.clone(), envelope: set.envelope.reference() }
    }
}

/// A set that a point names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReference {
    #[serde(flatten)]
    pub role: SetRole,
    pub scope: Scope,
    pub envelope: ObjectRef,
}

/// A database of the tenant when the point was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDatabase {
    pub oid: DbOid,
    pub name: String,
    /// Relation file numbers, with the table that each belongs to (an index and a TOAST table belong to theirs): what
    /// `points --around` calls things by.
    #[serde(default)]
    pub tables: BTreeMap<u32, String>,
}

/// The sealed part of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointBody {
    pub tenant: String,
    pub facts: PointFacts,
    pub databases: Vec<PointDatabase>,
    pub sets: Vec<SetReference>,
}
