//! Speaking with PostgreSQL and reading what it writes; knows nothing of the repository.
//!
//! | file | what |
//! |---|---|
//! | [`connect`], [`tls`], [`auth`], [`wire`] | how a server is reached: address, certificate, password, frames |
//! | [`replication`], [`wal_stream`], [`backup_stream`] | the replication protocol: commands, WAL, base backup |
//! | [`sql`] | ordinary SQL |
//! | [`base_backup`], [`owner`] | a base backup's archives, member by member, and whose each member is |
//! | [`relation`], [`checksum`], [`control`] | relation files, their pages, `pg_control` |
//! | [`binaries`], [`server`], [`recovery_log`] | starting a recovered server, and what it reached |
//! | [`wal`] | WAL: read, split by database, merged again |

pub mod auth;
pub mod backup_stream;
pub mod base_backup;
pub mod binaries;
pub mod checksum;
pub mod connect;
pub mod control;
pub mod owner;
pub mod recovery_log;
pub mod relation;
pub mod replication;
pub mod server;
pub mod sql;
pub mod tls;
pub mod wal;
pub mod wal_stream;
pub mod wire;

#[cfg(test)]
mod real_tests;
#[cfg(test)]
pub mod rig;
