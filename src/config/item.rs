//! One value of the file, and the ways to read it. A reader gives the value or a sentence about what is wrong with it.

use std::ops::Range;
use std::path::PathBuf;

use jiff::SignedDuration;
use toml::de::DeValue;

use super::duration::duration;
use super::nearest::hint;
use super::secret::Secret;
use super::size::size;
use super::table::{Document, Table};
use crate::ids::is_plain_name;

/// A value with its key and its place.
pub(super) struct Item<'a> {
    pub(super) document: &'a Document<'a>,
    pub(super) key: String,
    pub(super) key_at: Range<usize>,
    pub(super) at: Range<usize>,
    pub(super) value: &'a DeValue<'a>,
}

impl<'a> Item<'a> {
    /// The value, or nothing and a problem noted.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Self) -> Result<T, String>) -> Option<T> {
        read(self).map_err(|what| self.report(what)).ok()
    }

    pub(super) fn report(&self, what: impl Into<String>) {
        self.document.report(self.at.clone(), &self.key, what);
    }

    /// The kind of value is named, never the value: a password in the wrong place must not be repeated.
    fn expected<T>(&self, wanted: &str) -> Result<T, String> {
        let (article, found) = match self.value.type_str() {
            found @ ("integer" | "array") => ("an", found),
            found => ("a", found),
        };
        Err(format!("expected {wanted}, found {article} {found}"))
    }

    pub(super) fn text(&self) -> Result<String, String> {
        let DeValue::String(text) = self.value else { return self.expected("a string") };
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("contains control characters".to_owned());
        }
        Ok(text.to_string())
    }

    /// A name that becomes part of object names and paths.
    pub(super) fn plain_name(&self) -> Result<String, String> {
        let text = self.text()?;
        plain_name(&text)?;
        Ok(text)
    }

    /// A path; a relative one is relative to the file's folder.
    pub(super) fn path(&self) -> Result<PathBuf, String> {
        Ok(self.document.resolve(&self.text()?))
    }

    pub(super) fn duration(&self) -> Result<SignedDuration, String> {
        let DeValue::String(text) = self.value else { return self.expected("a duration like \"35d\"") };
        duration(text)
    }

    /// A duration that would make no sense as zero.
    pub(super) fn some_duration(&self) -> Result<SignedDuration, String> {
        let length = self.duration()?;
        if length.is_zero() { Err("must be more than zero".to_owned()) } else { Ok(length) }
    }

    /// A size that would make no sense as zero, in bytes.
    pub(super) fn some_size(&self) -> Result<u64, String> {
        let DeValue::String(text) = self.value else { return self.expected("a size like \"16MiB\"") };
        let bytes = size(text)?;
        if bytes == 0 { Err("must be more than zero".to_owned()) } else { Ok(bytes) }
    }

    pub(super) fn flag(&self) -> Result<bool, String> {
        let DeValue::Boolean(flag) = self.value else { return self.expected("true or false") };
        Ok(*flag)
    }

    /// A whole number within `range`.
    pub(super) fn whole(&self, range: Range<u32>) -> Result<u32, String> {
        let DeValue::Integer(number) = self.value else { return self.expected("a whole number") };
        let value = u32::from_str_radix(number.as_str(), number.radix()).ok();
        let most = range.end - 1;
        value
            .filter(|value| range.contains(value))
            .ok_or_else(|| format!("{number} is not between {} and {most}", range.start))
    }

    /// A TCP port, or the number in a socket's name.
    pub(super) fn port(&self) -> Result<u16, String> {
        let port = self.whole(1..65_536)?;
        u16::try_from(port).map_err(|_| format!("{port} is not a port"))
    }

    /// One of the words of a closed list.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Result<T, String> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        let known = words.iter().map(|(word, _)| *word);
        found.map(|(_, value)| *value).ok_or_else(|| format!("'{text}' is not known{}", hint(&text, known)))
    }

    /// Where a secret lies; a secret itself is refused and not repeated.
    pub(super) fn secret(&self) -> Result<Secret, String> {
        const INSTEAD: &str = "write { file = \"...\" }, { env = \"...\" } or { ref = \"vault:...\" }";
        let DeValue::Table(entries) = self.value else {
            return Err(format!("a secret must not stand in this file; {INSTEAD}"));
        };
        let table = self.table();
        let file = table.take("file", Item::path).map(Secret::File);
        let env = table.take("env", Item::variable).map(Secret::Env);
        let reference = table.take("ref", Item::reference).map(Secret::Ref);
        table.finish();
        let known = entries.keys().filter(|key| ["file", "env", "ref"].contains(&key.get_ref().as_ref())).count();
        match (file.or(env).or(reference), known) {
            (Some(secret), 1) => Ok(secret),
            // Something was wrong with the one place given, and has been said.
            (None, 1) => Ok(Secret::Env(String::new())),
            (_, 0) => Err(format!("says no place; {INSTEAD}")),
            (_, _) => Err(format!("says more than one place; {INSTEAD}")),
        }
    }

    /// The value is not repeated: somebody may have put the secret itself here.
    fn variable(&self) -> Result<String, String> {
        let name = self.text()?;
        let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(char::is_numeric);
        if fine { Ok(name) } else { Err("is not the name of an environment variable".to_owned()) }
    }

    fn reference(&self) -> Result<String, String> {
        let text = self.text()?;
        match text.split_once(':') {
            Some((kind, rest)) if is_plain_name(kind) && !rest.is_empty() => Ok(text),
            _ => Err("is not a reference like \"vault:path#field\"".to_owned()),
        }
    }

    pub(super) fn list<T>(&self, mut read: impl FnMut(&Self) -> Result<T, String>) -> Vec<T> {
        let DeValue::Array(values) = self.value else {
            if let Err(what) = self.expected::<()>("a list like [\"one\", \"two\"]") {
                self.report(what);
            }
            return Vec::new();
        };
        let each = values.iter().map(|value| Item {
            document: self.document,
            key: self.key.clone(),
            key_at: self.key_at.clone(),
            at: value.span(),
            value: value.get_ref(),
        });
        each.filter_map(|item| item.read(&mut read)).collect()
    }

    /// The table that this value is; where it is something else, that is noted and an empty one given.
    pub(super) fn table(&self) -> Table<'a> {
        let DeValue::Table(entries) = self.value else {
            if let Err(what) = self.expected::<()>("a table") {
                self.report(what);
            }
            return Table::spoilt(self.document, self.key.clone(), self.at.clone());
        };
        // A table's own span is its header or its braces; its key is what a person looks for.
        Table::new(self.document, self.key.clone(), self.key_at.clone(), Some(entries))
    }
}

/// Says what a plain name is, where `text` is none.
pub(super) fn plain_name(text: &str) -> Result<(), String> {
    if is_plain_name(text) {
        return Ok(());
    }
    Err(format!("'{text}' is not a plain name (a-z, 0-9, '-' and '_', at most 63, a letter or digit first)"))
}
