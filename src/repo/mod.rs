//! The repository format: what lies in the store, sealed and signed (`docs/FORMAT.md` has it for people).
//!
//! | where | what |
//! |---|---|
//! | [`name`], [`chunk`], [`pack`], [`set`], [`chunk_map`], [`envelope`] | the shape of each thing, in bytes; no store, no clock |
//! | [`seal`], [`sign`] | age and SSH signatures |
//! | [`key`], [`identities`], [`ceremony`] | keys that write, keys that read, and making both |
//! | [`erasure`] | which keys were destroyed on purpose |
//! | [`writer`], [`set_writer`], [`stretch`], [`readme`] | putting things in; `study`, `packing` and `pool` are the work behind it |
//! | [`expire`], [`hold`] | taking away what nobody needs; keeping what an incident needs |
//! | [`verify`] | whether all of it is there, is what it was, opens |
//! | [`reader`], [`extract`], [`window`] | listing, opening, bringing back; `fetch` sees through a lying store, [`recall`] spares reading twice, `root` keeps inside a folder |
//! | [`copy`], [`witness`] | a second store with the same, and what it knows that the first one hides |
//!
//! It knows nothing of PostgreSQL: a relation file is a file, a stretch of WAL is bytes with an LSN range.

pub mod ceremony;
pub mod chunk;
pub mod chunk_map;
pub mod copy;
pub mod envelope;
pub mod erasure;
pub mod error;
pub mod expire;
pub mod extract;
mod fetch;
pub mod hold;
pub mod identities;
pub mod key;
pub mod name;
pub mod pack;
mod packing;
mod pool;
pub mod reader;
pub mod readme;
pub mod recall;
mod root;
pub mod seal;
pub mod set;
pub mod set_writer;
pub mod sign;
pub mod stretch;
mod study;
pub mod verify;
pub mod window;
pub mod witness;
pub mod writer;

pub(crate) use fetch::oldest_first;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
