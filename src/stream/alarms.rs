//! What a person is told while a stream runs: in words, with the next step.

use super::bindings::Alarm;
use crate::postgres::wal::notice::Notice;
use crate::watch::{Watch, warn};

/// What the WAL itself announced.
pub fn of_wal(watch: &dyn Watch, notice: &Notice) {
    match notice {
        Notice::Unknown { at, rmgr, info, reason } => warn(
            watch,
            format!("WAL record at {at}"),
            format!(
                "is of a kind nobody knows (resource manager {rmgr}, info 0x{info:02X}, {reason:?}): it is quarantined, and no restore goes past it"
            ),
            "report the record's kind; a base backup taken now opens a window after it",
        ),
        Notice::CopiedFrom { db, source, at } => warn(
            watch,
            format!("database {db}"),
            format!("was copied file by file from database {source} at {at}: a restore past that needs both keys"),
            "take a base backup now; after it, the copy stands on its own",
        ),
        Notice::Tablespace { oid, path, at } => warn(
            watch,
            format!("tablespace {oid} at {path}"),
            format!("was made at {at}: a restore from an older base backup cannot replay past that"),
            "take a base backup now",
        ),
        Notice::Aborted { .. } | Notice::Created { .. } | Notice::Dropped { .. } => {}
    }
}

/// What the bindings decided.
pub fn of_bindings(watch: &dyn Watch, alarm: &Alarm) {
    match alarm {
        Alarm::Spare { oid, scope } => warn(
            watch,
            format!("database {oid}"),
            format!("belongs to no tenant; it is sealed to {scope}, a key of its own"),
            "map it to a tenant in lifeboat.toml ([tenants.<id>] databases)",
        ),
        Alarm::NoSpareLeft { oid } => warn(
            watch,
            format!("database {oid}"),
            "belongs to no tenant and no spare key is left; it goes to quarantine",
            "make more spares: `lifeboat key new spare`, then restart the stream",
        ),
        Alarm::Rebound { name, was, now, .. } => warn(
            watch,
            format!("database {name}"),
            format!("is {now}'s from here on; what was written before stays under {was}"),
            "keep both keys until the older WAL has lapsed",
        ),
    }
}
