//! A recovered data directory made ready to be handed over: others removed, collations checked, server stopped, old WAL gone,
//! configuration of its own, owner set.

use std::collections::BTreeSet;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::assemble::disk;
use super::clean::{self, Removed};
use super::collation::{self, Refreshed};
use super::recover::{Assembled, Recovered};
use crate::failure::Failure;
use crate::ids::DbOid;
use crate::postgres::sql;
use crate::sandbox::Owner;
use crate::watch::Watch;

/// What was done to the recovered cluster before it was handed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Delivered {
    pub removed: Removed,
    pub refreshed: Vec<Refreshed>,
}

/// Removes what is others', brings indexes in line with this machine's collations, and leaves no older WAL behind.
///
/// # Errors
/// Of the server; the object says which statement.
pub async fn tidy(
    recovered: &Recovered,
    wanted: Option<&BTreeSet<DbOid>>,
    watch: &dyn Watch,
) -> Result<Delivered, Failure> {
    watch.stage("tidying", None);
    let mut connection = recovered.connect("postgres").await?;
    let mut delivered = Delivered::default();
    if let Some(wanted) = wanted {
        delivered.removed = clean::remove_others(&mut connection, wanted, watch).await?;
        let open = "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY datname";
        for name in sql::text_rows(&mut connection, "the list of databases", open).await?.iter().flatten().flatten() {
            clean::forget_others(&mut recovered.connect(name).await?).await?;
        }
    }
    clean::drop_loading_settings(&mut connection, &mut delivered.removed, watch).await?;
    delivered.refreshed = collation::refresh(recovered, &mut connection, wanted, watch).await?;
    // What was replayed names others; after the checkpoint nothing before this segment is needed.
    for statement in ["CHECKPOINT", "SELECT pg_switch_wal()", "CHECKPOINT"] {
        sql::execute(&mut connection, "the recovered server", statement).await?;
    }
    Ok(delivered)
}

/// Stops the server and moves `pgdata` to `target`, owned by `owner`, with a configuration to start it with.
///
/// # Errors
/// Of the server or the disk.
pub async fn hand_over(recovered: Recovered, target: &Path, owner: Option<Owner>) -> Result<(), Failure> {
    let assembled = recovered.stop().await?;
    let pgdata = assembled.pgdata();
    drop_old_wal(&assembled)?;
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let path = pgdata.join(name);
        std::fs::remove_file(&path).map_err(|error| disk(&path, &error))?;
    }
    write(&pgdata.join("postgresql.conf"), CONFIGURATION)?;
    write(&pgdata.join("pg_hba.conf"), ACCESS)?;
    write(&pgdata.join("pg_ident.conf"), "")?;
    sync(&pgdata)?;
    std::fs::rename(&pgdata, target).map_err(|error| disk(target, &error))?;
    std::fs::set_permissions(target, std::fs::Permissions::from_mode(0o700)).map_err(|error| disk(target, &error))?;
    if let Some(owner) = owner {
        owner.give(target)?;
    }
    Ok(())
}

const CONFIGURATION: &str = "\
# Written by lifeboat. What was captured lies beside, in captured/, and is not used.
listen_addresses = ''
archive_mode = off
max_logical_replication_workers = 0
# Tablespaces were restored as plain folders in pg_tblspc.
allow_in_place_tablespaces = on
";

const ACCESS: &str = "\
# Written by lifeboat: the operating system's user of the same name, over the socket.
local all all peer
";

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| disk(path, &error))
}

/// Removes the segments before the one that the last checkpoint begins in: they hold what was replayed.
fn drop_old_wal(assembled: &Assembled) -> Result<(), Failure> {
    let pgdata = assembled.pgdata();
    let path = pgdata.join("global/pg_control");
    let content = std::fs::read(&path).map_err(|error| disk(&path, &error))?;
    let control = crate::postgres::control::ControlFile::parse(&content)?;
    let segment_bytes = u64::from(control.wal_segment_bytes.max(1));
    let needed = control.checkpoint_redo.0 / segment_bytes;
    let folder = pgdata.join("pg_wal");
    for entry in std::fs::read_dir(&folder).map_err(|error| disk(&folder, &error))? {
        let entry = entry.map_err(|error| disk(&folder, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(number) = segment_number(&name, segment_bytes) else { continue };
        let timeline = u32::from_str_radix(name.get(..8).unwrap_or_default(), 16).unwrap_or_default();
        if number < needed || timeline != control.timeline.0 {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|error| disk(&path, &error))?;
        }
    }
    Ok(())
}

/// The number of a segment by its file's name (`XLogFileName`: timeline, then log and segment in it).
fn segment_number(name: &str, segment_bytes: u64) -> Option<u64> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let part = |from: usize| u64::from_str_radix(name.get(from..from + 8)?, 16).ok();
    Some(part(8)? * (0x1_0000_0000 / segment_bytes) + part(16)?)
}

/// The server ran without fsync: everything is made durable here, at once.
fn sync(folder: &Path) -> Result<(), Failure> {
    let opened = std::fs::File::open(folder).map_err(|error| disk(folder, &error))?;
    rustix::fs::syncfs(&opened).map_err(|errno| disk(folder, &errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segments_number_is_read_from_its_name() {
        assert_eq!(segment_number("000000010000000200000003", 16 << 20), Some(2 * 256 + 3));
        assert_eq!(segment_number("00000002.history", 16 << 20), None);
        assert_eq!(segment_number("archive_status", 16 << 20), None);
    }
}
