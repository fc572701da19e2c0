//! Filestores and access rosters against real Odoo databases in a real PostgreSQL.
//!
//! initech lies in `tests/data`; acme and globex are looked for in `LIFEBOAT_SHARED` (default `../shared`), and what needs
//! them says that it was skipped when they are not there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod access;
mod filestore;
mod server;
