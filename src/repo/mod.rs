//! The repository format: what lies in the store, sealed and signed (`docs/FORMAT.md` has it for people).
//!
//! From the bottom up: [`name`] and [`chunk`]; keys in [`key`] (writes), [`identities`] (reads), [`ceremony`] (makes both); [`seal`] and
//! [`sign`].

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
mod root;
pub mod seal;
pub mod set;
pub mod set_writer;
pub mod sign;
pub mod stretch;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod window;
pub mod writer;
