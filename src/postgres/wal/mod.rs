//! Splitting a cluster's WAL by who each byte belongs to, and laying the shares together again.
//!
//! A record belongs to the database it touches. [`split::Splitter`] reads one timeline's WAL as a stream of
//! bytes and gives, per stretch `[from, to)` between record boundaries:
//! - the cluster's part: the whole stretch, valid WAL by itself; records of tenants are no-ops of the same length;
//! - a part per tenant: the original bytes of its records, to be laid over the cluster's part;
//! - residue: bytes that no replay reads (aborted records, padding), kept so that all parts together are bit-exact;
//! - quarantine: records nobody can assign. A restore past one without it is wrong, so the split says where they are.
//!
//! Invariant: no content of a tenant's database is in the cluster's part, in another tenant's part or in residue
//! of whole records, and the cluster's part is a function of what is not that tenant's (CRCs included).
//! Everything here is synchronous and pure, except [`segments`], which writes files. Nothing here knows keys,
//! tenants' names or the store.

pub mod commits;
pub mod cursor;
pub mod error;
pub mod extent;
pub mod merge;
pub mod notice;
pub mod owner;
pub mod page;
pub mod record;
pub mod segments;
mod shares;
pub mod split;
pub mod stub;
pub mod touched;
pub mod version;

#[cfg(test)]
mod tests;

pub use error::WalError;
pub use extent::{Extent, Part};
pub use page::Geometry;
pub use split::{Split, Splitter, Start};

use crate::ids::{DbOid, Lsn};

/// An owner as the caller numbers them; several databases may have the same one.
pub type Slot = u32;

/// Whom a database belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Shared catalogs and the databases declared shared (template0, template1, postgres).
    Cluster,
    Tenant(Slot),
}

/// Knows whom a database belongs to at a position of the WAL.
///
/// OIDs can be used again, so the answer is a function of the OID and the position: [`Owners::created`] begins
/// a new database, whatever the OID meant before.
pub trait Owners {
    /// The owner of `db` at `at`. OID 0 must answer [`Owner::Cluster`]; a database never seen before must
    /// answer a slot of its own, never somebody's.
    fn owner(&mut self, db: DbOid, at: Lsn) -> Owner;
    /// `CREATE DATABASE` made `db`; the record at `at` already belongs to the new one.
    fn created(&mut self, db: DbOid, at: Lsn);
    /// `DROP DATABASE` removed `db`; the record at `at` is the last that belongs to it.
    fn dropped(&mut self, db: DbOid, at: Lsn);
}
