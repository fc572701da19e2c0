//! The probes, one file each: a [`super::probe::Kind`], a function that asks, and a pure one that judges what was seen.
//!
//! | file | asks |
//! |---|---|
//! | `restored` | was the target reached, in time, with no key but these
//! | `proof` | did the sandbox prove that it is one |
//! | `egress` | can something inside the restored server reach the host |
//! | `captured` | does the server run under our settings, with none that were captured |
//! | `others` | are other tenants' databases absent |
//! | `prepared` | do other tenants' transactions wait in it |
//! | `owner` | can the role that owns the database still work in it |
//! | `pages` | are tables and indexes sound |
//! | `indexes`, `sequences`, `unlogged` | what works less than it looks |
//! | `attachments` | does every row have its file |
//! | `access` | who may do what, against the roster that was captured |
//! | `sign_in` | does a real Odoo let a canary in, and nobody else |
//! | `webhook` | can a server action of that Odoo reach the host |
//!
//! A new one: write its file, name it here, call it in `rehearse.rs`. Every judging function has a test in which it fails.

pub mod access;
pub mod attachments;
pub mod captured;
pub mod egress;
pub mod indexes;
pub mod others;
pub mod owner;
pub mod pages;
pub mod prepared;
pub mod proof;
pub mod restored;
pub mod sequences;
pub mod sign_in;
pub mod unlogged;
pub mod webhook;

/// `1 file`, `2 files`.
#[must_use]
pub(super) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// The first few of a list, for a sentence.
#[must_use]
pub(super) fn few<T: AsRef<str>>(items: &[T]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = items.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = items.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
