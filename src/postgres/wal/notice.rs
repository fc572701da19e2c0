//! What a stretch says besides content: databases made and removed, tablespaces, records nobody understood.

use std::collections::BTreeMap;

use super::owner::{DatabaseChange, Reason};
use super::record::u32_at;
use crate::ids::{DbOid, Lsn};

/// Something in a stretch that the caller should know; none of it is content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A record went to quarantine: an alarm, and no restore past it without that part.
    Unknown {
        at: Lsn,
        rmgr: u8,
        info: u8,
        reason: Reason,
    },
    /// A crash cut the record at `at` off (ordinary).
    Aborted {
        at: Lsn,
    },
    Created {
        db: DbOid,
        at: Lsn,
    },
    Dropped {
        db: DbOid,
        at: Lsn,
    },
    /// `db` was made by copying `source`'s files: a restore of it past `at` needs the source's part and files too.
    CopiedFrom {
        db: DbOid,
        source: DbOid,
        at: Lsn,
    },
    /// A tablespace was made: replay will link to this path on the machine it runs on.
    Tablespace {
        oid: u32,
        path: String,
        at: Lsn,
    },
}

/// A database whose binding to an owner begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Created(DbOid),
    Dropped(DbOid),
}

/// Notes a made or removed database.
///
/// Moving a database to another tablespace writes a copy of itself, then a drop in the old tablespace; neither
/// makes or removes anything. After a move that failed, the real drop can look the same: then the binding stays,
/// which is safe, because a later database with the same OID announces itself.
pub(super) fn databases(
    moving: &mut BTreeMap<DbOid, u32>,
    notices: &mut Vec<Notice>,
    change: DatabaseChange,
    at: Lsn,
) -> Option<Event> {
    match change {
        DatabaseChange::Created { db, source: Some(source), tablespaces: (_, old) } if source == db => {
            moving.insert(db, old);
            None
        }
        DatabaseChange::Created { db, source, .. } => {
            moving.remove(&db);
            notices.push(Notice::Created { db, at });
            notices.extend(source.map(|source| Notice::CopiedFrom { db, source, at }));
            Some(Event::Created(db))
        }
        DatabaseChange::Dropped { db, tablespace } => {
            let moved_from = moving.remove(&db);
            if moved_from.is_some() && moved_from == tablespace {
                return None;
            }
            notices.push(Notice::Dropped { db, at });
            Some(Event::Dropped(db))
        }
    }
}

/// `xl_tblspc_create_rec`: OID, then a path that ends with a zero byte.
pub(super) fn tablespace(main: &[u8], at: Lsn) -> Option<Notice> {
    let path = main.get(4..)?.split(|byte| *byte == 0).next()?;
    Some(Notice::Tablespace { oid: u32_at(main, 0)?, path: String::from_utf8_lossy(path).into_owned(), at })
}
