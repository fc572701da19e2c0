//! Odoo's attachment files: `<data_dir>/filestore/<database>/<2 hex>/<40 hex>`, named by the SHA-1 of their content,
//! written once, never rewritten (Odoo `addons/base/models/ir_attachment.py`).
//!
//! | file | noun |
//! |---|---|
//! | [`hold`] | the collection, kept from removing files while they are copied |
//! | [`rows`] | what the database references |
//! | [`scan`] | what lies in the folder, read without following a link |
//! | [`state`] | the two compared, one file at a time |
//! | [`watch`] | files that are new since the last look |
//! | [`fetch`] | a folder filled again, by what the database references |
//! | [`reconcile`] | rows against files, counted after a restore |
//!
//! Order: rows first, then files. Files are only ever added; the one thing that removes them is the collection.
//! Names in the database and names in the folder are both hostile: only [`FileName`] becomes a path.
//! This module knows nothing of the repository: it yields names, readers and counts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub mod fetch;
pub mod hold;
pub mod reconcile;
pub mod rows;
pub mod scan;
pub mod state;
pub mod watch;

/// A file's name in a filestore, `ab/abcdef…`: the SHA-1 that its content must have.
///
/// It is the only way from a text (a row, a folder's listing) to a path, so nothing but two hex digits, a slash and
/// forty hex digits ever becomes one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(pub [u8; 20]);

/// A text that is not the name of an attachment's file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is not the name of an attachment's file (2 hex digits, '/', 40 hex digits)", .text.escape_debug())]
pub struct BadName {
    pub text: String,
}

impl FileName {
    /// The folder: the first two hex digits.
    #[must_use]
    pub fn folder(&self) -> String {
        hex::encode(&self.0[..1])
    }

    /// The name within the folder: forty hex digits.
    #[must_use]
    pub fn sha1(&self) -> String {
        hex::encode(self.0)
    }

    /// The name that lies in `folder` as `file`, where both are what Odoo writes.
    fn from_parts(folder: &str, file: &str) -> Option<Self> {
        let lower = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut sha1 = [0; 20];
        let fits = folder.len() == 2 && lower(file) && file.starts_with(folder);
        (fits && hex::decode_to_slice(file, &mut sha1).is_ok()).then_some(Self(sha1))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.folder(), self.sha1())
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FileName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        text.split_once('/')
            .and_then(|(folder, file)| Self::from_parts(folder, file))
            .ok_or_else(|| BadName { text: text.to_owned() })
    }
}

impl Serialize for FileName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_reads_back_and_nothing_else_is_one() {
        let good = "da/da39a3ee5e6b4b0d3255bfef95601890afd80709";
        assert_eq!(good.parse::<FileName>().unwrap().to_string(), good);
        for bad in [
            "",
            "da/",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "ab/da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "da/da39a3ee5e6b4b0d3255bfef95601890afd8070",
            "da/da39a3ee5e6b4b0d3255bfef95601890afd807090",
            "DA/DA39A3EE5E6B4B0D3255BFEF95601890AFD80709",
            "da3/da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "../da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "da/../../../etc/passwd",
            "/da/da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "da/da39a3ee5e6b4b0d3255bfef95601890afd80709\0",
            "checklist/da/da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "é9/da39a3ee5e6b4b0d3255bfef95601890afd80709",
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad}");
        }
    }
}
