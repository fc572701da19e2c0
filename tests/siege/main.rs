//! The repository under siege: damage in every kind of object, a crash at every call, an attacker with every stolen credential.
//!
//! All of it in this process, on stores in memory with a clock that is set, so that years and hundreds of cases take seconds. The estate is small
//! and real: what it holds was written by the writer, its WAL is WAL, and a restore is judged by every byte that it lays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod commands;
mod crash_sweep;
mod damage;
mod damage_matrix;
mod ground;
mod keys_and_ledger;
mod ransom;
mod wal;
