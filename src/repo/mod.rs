//! The repository format: what lies in the store, sealed and signed (`docs/FORMAT.md` has it for people).
//!
//! | where | what |
//! |---|---|
//! | [`name`], [`chunk`], [`pack`], [`set`], [`chunk_map`], [`envelope`] | the shape of each thing, in bytes; no store, no clock |
//! | [`seal`], [`sign`] | age and SSH signatures |
//! | [`key`], [`identities`], [`ceremony`] | keys that write, keys that read, and making both |
//! | [`writer`], [`set_writer`], [`stretch`], [`readme`] | putting things in; `study`, `packing` and `pool` are the work behind it |
//! | [`reader`], [`extract`], [`window`] | listing, opening, bringing back; `fetch` sees through a lying store, `root` keeps inside a folder |
//!
//! It knows nothing of PostgreSQL: a relation file is a file, a stretch of WAL is bytes with an LSN range.

pub mod ceremony;
pub mod chunk;
pub mod chunk_map;
pub mod envelope;
pub mod error;
pub mod extract;
mod fetch;
pub mod identities;
pub mod key;
pub mod name;
pub mod pack;
mod packing;
mod pool;
pub mod reader;
pub mod readme;
mod root;
pub mod seal;
pub mod set;
pub mod set_writer;
pub mod sign;
pub mod stretch;
mod study;
pub mod window;
pub mod writer;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
