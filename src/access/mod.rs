//! Who may do what, layer by layer: captured as a value, compared in both directions.
//!
//! | file | noun |
//! |---|---|
//! | [`roster`] | the identities found in one layer, in a form that every layer shares |
//! | [`compare`] | two rosters: what was lost, gained, weakened, revived |
//! | [`odoo`], [`postgres`] | the layers; each has one `capture` that returns a roster |
//! | [`reader`] | reading a database that may be hostile, and taking digests instead of secrets |
//!
//! A layer is one file: it fills a [`roster::Roster`] and gives people, groups and policies **stable** ids (those that a
//! restore does not change). No secret value leaves the place where it lies: secrets are hashed there, and the hash is
//! keyed per tenant here, so that a roster tells equal from different and nothing else. This module decides nothing:
//! verdicts and stores are elsewhere.

pub mod compare;
pub mod odoo;
pub mod postgres;
pub mod reader;
pub mod roster;

use jiff::Timestamp;

use self::reader::Keyed;
use crate::failure::{Failure, Kind, chain};

/// What a capture is told.
#[derive(Debug, Clone, Copy)]
pub struct Capture<'a> {
    pub tenant: Option<&'a str>,
    /// The tenant's key for digests. Not printed.
    pub key: Keyed<'a>,
    /// Now.
    pub captured_at: Timestamp,
    /// The time of the state: now for a live database, the last commit that was reached for a restored one.
    pub as_of: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("database {database} is not an Odoo database: it has no table res_users")]
    NotOdoo { database: String },
    /// A view, a foreign table or a type of somebody's making in the place of what the layer's software makes.
    #[error("{table} is not the table that its software makes")]
    Strange { table: String },
    #[error("{table}: a row cannot be understood")]
    Row {
        table: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the database cannot be read")]
    Sql(#[from] sqlx::Error),
    #[error("a roster of layer {before} cannot be compared with one of layer {after}")]
    OtherLayer { before: String, after: String },
    #[error("the two rosters' digests were taken under different keys")]
    OtherKey,
    #[error("a roster of format {0} is newer than this program")]
    OtherFormat(u32),
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        let cause = chain(&error);
        let (kind, object, next) = match error {
            AccessError::NotOdoo { database } => (
                Kind::Usage,
                format!("database {database}"),
                "remove the Odoo layer from this database's configuration",
            ),
            AccessError::Strange { table } => (Kind::Refused, table, "find out who replaced the table"),
            AccessError::Row { table, .. } => (Kind::Integrity, table, "look at the table's rows by hand"),
            AccessError::Sql(_) => (Kind::Unreachable, "access".to_owned(), "see the cause; then try again"),
            AccessError::OtherLayer { .. } => (Kind::Usage, "roster".to_owned(), "compare rosters of one layer"),
            AccessError::OtherKey => {
                (Kind::Usage, "roster".to_owned(), "compare rosters of one tenant and one key epoch, or capture again")
            }
            AccessError::OtherFormat(_) => (Kind::Usage, "roster".to_owned(), "use a newer lifeboat"),
        };
        Self::new(kind, object, cause, next)
    }
}
