//! Names that are needed, as 16 bytes each: all that has to be remembered of them is whether one is among them.

use std::collections::HashSet;

use crate::ids::Digest;

/// A set of (name, size). Sixteen bytes of SHA-256: nobody makes two meet, and if he did, something would be kept.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<u128>);

impl Names {
    pub fn add(&mut self, name: &str, bytes: u64) {
        self.0.insert(key(name, bytes));
    }

    pub fn contains(&self, name: &str, bytes: u64) -> bool {
        self.0.contains(&key(name, bytes))
    }
}

fn key(name: &str, bytes: u64) -> u128 {
    let digest = Digest::of(format!("{bytes} {name}").as_bytes());
    digest.0.iter().take(16).fold(0, |key, byte| key << 8 | u128::from(*byte))
}
