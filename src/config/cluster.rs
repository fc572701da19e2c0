//! `[clusters.NAME]`: one PostgreSQL server, how to reach it, and how its WAL is carried away.

use std::path::PathBuf;

use jiff::SignedDuration;

use super::item::{Item, plain_name};
use super::secret::Secret;
use super::table::Table;

/// How far the server's certificate is trusted; the words are libpq's (PostgreSQL docs, 34.19 "SSL Support").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

const SSL_MODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

#[derive(Debug, Clone)]
pub struct Cluster {
    pub name: String,
    /// A host name or address, or (beginning with `/`) the folder of the server's socket.
    pub host: String,
    pub port: u16,
    /// Needs `REPLICATION` and read access to what lists databases and settings.
    pub user: String,
    /// The database for ordinary SQL (looking at settings and the list of databases).
    pub database: String,
    pub password: Option<Secret>,
    pub sslmode: SslMode,
    pub ca_file: Option<PathBuf>,
    /// The physical replication slot that `stream` uses.
    pub slot: String,
    /// Go on although the server sets no `max_slot_wal_keep_size`: a stopped streamer can then fill its disk.
    pub allow_unbounded_slot: bool,
    /// Folder of this server's programs, where they are not in a usual place.
    pub bin: Option<PathBuf>,
    /// WAL that has arrived is made durable after this long,
    pub flush_interval: SignedDuration,
    /// or after this many bytes.
    pub flush_bytes: u64,
    /// A stretch of WAL ends after this many bytes,
    pub stretch_bytes: u64,
    /// or after this long.
    pub stretch_interval: SignedDuration,
    /// A quiet server's clock is written down this often, so that a quiet time can be restored to as well.
    pub heartbeat: SignedDuration,
    /// Who creates the database in `restore --into-cluster`; [`Cluster::user`] where it is not given.
    pub restore_user: Option<String>,
    pub restore_password: Option<Secret>,
}

pub(super) fn cluster(name: &str, item: &Item<'_>) -> Cluster {
    let table = item.table();
    if let Err(what) = plain_name(name) {
        table.report("", what);
    }
    let cluster = Cluster {
        name: name.to_owned(),
        host: table.need("host", host).unwrap_or_default(),
        port: table.take("port", Item::port).unwrap_or(5432),
        user: table.need("user", Item::text).unwrap_or_default(),
        database: table.take("database", Item::text).unwrap_or_else(|| "postgres".to_owned()),
        password: table.take("password", Item::secret),
        sslmode: table.take("sslmode", |item| item.one_of(&SSL_MODES)).unwrap_or(SslMode::Prefer),
        ca_file: table.take("ca_file", Item::path),
        slot: table.take("slot", slot).unwrap_or_else(|| "lifeboat".to_owned()),
        allow_unbounded_slot: table.take("allow_unbounded_slot", Item::flag).unwrap_or(false),
        bin: table.take("bin", Item::path),
        flush_interval: table.take("flush_interval", Item::some_duration).unwrap_or(SignedDuration::from_secs(1)),
        flush_bytes: table.take("flush_bytes", Item::some_size).unwrap_or(1 << 20),
        stretch_bytes: table.take("stretch_bytes", Item::some_size).unwrap_or(16 << 20),
        stretch_interval: table.take("stretch_interval", Item::some_duration).unwrap_or(SignedDuration::from_mins(5)),
        heartbeat: table.take("heartbeat", Item::some_duration).unwrap_or(SignedDuration::from_secs(60)),
        restore_user: table.take("restore_user", Item::text),
        restore_password: table.take("restore_password", Item::secret),
    };
    agree(&table, &cluster);
    table.finish();
    cluster
}

/// What single values cannot show.
fn agree(table: &Table<'_>, cluster: &Cluster) {
    if cluster.flush_bytes > cluster.stretch_bytes {
        table.report("flush_bytes", "is more than stretch_bytes: a flush is a part of a stretch");
    }
    if cluster.flush_interval > cluster.stretch_interval {
        table.report("flush_interval", "is longer than stretch_interval: a flush is a part of a stretch");
    }
    if cluster.ca_file.is_some() && cluster.sslmode == SslMode::Disable {
        table.report("ca_file", "is of no use with sslmode = \"disable\"");
    }
    if cluster.restore_password.is_some() && cluster.restore_user.is_none() {
        table.report("restore_password", "belongs to a restore_user, which is missing");
    }
}

/// A connection string may hold a password, so it is refused without being repeated.
fn host(item: &Item<'_>) -> Result<String, String> {
    let text = item.text()?;
    if text.contains("://") || text.contains(['@', '=', ' ', ',']) {
        return Err("is a connection string; give host, port, user and password apart".to_owned());
    }
    Ok(text)
}

/// Slot names: lower-case letters, digits, underscore, at most 63 (PostgreSQL docs, 27.2.6 "Replication Slots").
fn slot(item: &Item<'_>) -> Result<String, String> {
    let text = item.text()?;
    let fine = text.len() <= 63 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if fine { Ok(text) } else { Err(format!("'{text}' is not a slot's name (a-z, 0-9 and '_', at most 63)")) }
}
