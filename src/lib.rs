//! lifeboat: backups that are proven by drills, and people who can still get in.
//!
//! A map of the house, from the bottom up (`docs/ARCHITECTURE.md` has the long form):
//!
//! | where | what |
//! |---|---|
//! | [`ids`], [`clock`], [`failure`], [`watch`] | names, time, what goes wrong, who is told |
//! | [`config`] | `lifeboat.toml`: what one estate protects |
//! | [`store`] | bytes at names, with locks |
//! | [`repo`] | the format: keys, packs, sets, envelopes, points, stretches of WAL |
//! | [`authority`] | who may open and who may destroy: custody, keys stores, erasure |
//! | [`postgres`] | the replication protocol, base backups, WAL split by tenant, a recovered server |
//! | [`filestore`], [`access`] | Odoo's attachments; who may do what |
//! | [`sandbox`] | the isolated place a restore runs in |
//! | [`backup`], [`stream`], [`restore`], [`point`] | one recovery point: made, kept up, brought back, listed |
//! | [`drill`] | a rehearsed restore, its probes, its verdict |
//! | [`catalog`] | what this machine has read of a store: a cache, rebuildable |
//! | [`cli`] | one file per command; the only folder that prints |
//!
//! The library computes, `cli` speaks. `repo` knows nothing of PostgreSQL and `postgres` nothing of the
//! repository: they meet in [`backup`], [`stream`] and [`restore`]. `tests/house.rs` keeps the direction of imports.

pub mod access;
pub mod authority;
pub mod backup;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod drill;
pub mod failure;
pub mod filestore;
pub mod ids;
pub mod point;
pub mod postgres;
pub mod repo;
pub mod restore;
pub mod sandbox;
pub mod store;
pub mod stream;
pub mod watch;
