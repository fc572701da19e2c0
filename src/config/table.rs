//! Walking a parsed TOML table by hand, so that everything wrong is found in one go and every problem has its line.
//!
//! A reader asks a [`Table`] for the keys it knows; what was not asked for by the time of [`Table::finish`] is unknown.
//! So the code that reads a key is the only list of keys there is. A problem is noted and the walk goes on; what is
//! returned for a broken key is discarded with the whole configuration.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::item::Item;
use super::nearest::hint;

/// One file being read.
pub(super) struct Document<'a> {
    text: &'a str,
    /// What relative paths are relative to.
    folder: &'a Path,
    /// The TOML itself is broken: a key or a table that is not there may only have been lost.
    pub(super) broken: bool,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str, folder: &'a Path, syntax: &[toml::de::Error]) -> Self {
        let document = Self { text, folder, broken: !syntax.is_empty(), problems: RefCell::default() };
        for error in syntax {
            // The error's own Display quotes the line, secrets included; its message does not.
            let what = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            document.report(error.span().unwrap_or_default(), "", what);
        }
        document
    }

    /// What is wrong, in the order of lines. Where the TOML is broken, what else was found on that line is noise.
    pub(super) fn problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        let broken: Vec<usize> = problems.iter().filter(|p| p.key.is_empty()).map(|p| p.line).collect();
        problems.retain(|problem| problem.key.is_empty() || !broken.contains(&problem.line));
        problems.sort();
        problems.dedup();
        problems
    }

    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    pub(super) fn report(&self, at: Range<usize>, key: &str, what: impl Into<String>) {
        let before = self.text.as_bytes().get(..at.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.problems.borrow_mut().push(Problem { line, key: key.to_owned(), what: what.into() });
    }
}

/// A table that may or may not be there: an absent one is like an empty one, so that defaults need no special case.
pub(super) struct Table<'a> {
    document: &'a Document<'a>,
    /// Its full name: `clusters.main`; empty for the file itself.
    name: String,
    at: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    /// Something else stood where a table belongs: that was said once, its missing keys are not.
    spoilt: bool,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    pub(super) fn root(document: &'a Document<'a>, entries: &'a DeTable<'a>) -> Self {
        Self::new(document, String::new(), 0..0, Some(entries))
    }

    pub(super) fn new(
        document: &'a Document<'a>,
        name: String,
        at: Range<usize>,
        entries: Option<&'a DeTable<'a>>,
    ) -> Self {
        Self { document, name, at, entries, spoilt: false, asked: RefCell::default() }
    }

    fn full(&self, key: &str) -> String {
        match (self.name.as_str(), key) {
            ("", key) => key.to_owned(),
            (name, "") => name.to_owned(),
            (name, key) => format!("{name}.{key}"),
        }
    }

    fn find(&self, key: &'static str) -> Option<Item<'a>> {
        self.asked.borrow_mut().push(key);
        let (found, value) = self.entries?.get_key_value(key)?;
        Some(self.item(found.get_ref(), found.span(), value))
    }

    fn item(&self, key: &str, key_at: Range<usize>, value: &'a Spanned<DeValue<'a>>) -> Item<'a> {
        Item { document: self.document, key: self.full(key), key_at, at: value.span(), value: value.get_ref() }
    }

    /// A key that may be left out.
    pub(super) fn take<T>(&self, key: &'static str, read: impl FnOnce(&Item<'a>) -> Result<T, String>) -> Option<T> {
        self.find(key)?.read(read)
    }

    /// A key that must be there.
    pub(super) fn need<T>(&self, key: &'static str, read: impl FnOnce(&Item<'a>) -> Result<T, String>) -> Option<T> {
        let found = self.find(key);
        if found.is_none() {
            self.missing(key);
        }
        found?.read(read)
    }

    /// A list, each of its values read apart, so that each wrong one is named with its own line.
    pub(super) fn list<T>(&self, key: &'static str, read: impl FnMut(&Item<'a>) -> Result<T, String>) -> Vec<T> {
        self.find(key).map(|item| item.list(read)).unwrap_or_default()
    }

    /// A list that must be there and have something in it.
    pub(super) fn need_list<T>(&self, key: &'static str, read: impl FnMut(&Item<'a>) -> Result<T, String>) -> Vec<T> {
        let Some(item) = self.find(key) else {
            self.missing(key);
            return Vec::new();
        };
        if matches!(item.value, DeValue::Array(values) if values.is_empty()) {
            item.report("is empty");
        }
        item.list(read)
    }

    /// A table inside this one.
    pub(super) fn table(&self, key: &'static str) -> Self {
        match self.find(key) {
            Some(item) => item.table(),
            None => Self::new(self.document, self.full(key), self.at.clone(), None),
        }
    }

    /// A table inside this one, or nothing where it is left out.
    pub(super) fn optional_table(&self, key: &'static str) -> Option<Self> {
        Some(self.find(key)?.table())
    }

    /// All entries of a table whose keys are names of the user's choosing: `[clusters.NAME]`, `[retention.classes]`.
    pub(super) fn named(&self, key: &'static str) -> Vec<(String, Item<'a>)> {
        let table = self.table(key);
        let entries = table.entries.into_iter().flatten();
        entries
            .map(|(name, value)| (name.get_ref().to_string(), table.item(name.get_ref(), name.span(), value)))
            .collect()
    }

    /// The tables of `[[key]]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Self> {
        let mut found = Vec::new();
        if let Some(item) = self.find(key) {
            item.list(|each| {
                found.push(each.table());
                Ok(())
            });
        }
        found
    }

    fn missing(&self, key: &str) {
        if !self.spoilt && !self.document.broken {
            self.document.report(self.at.clone(), &self.full(key), "is missing");
        }
    }

    /// A problem that no single value shows; `key` gives the line where it is there, an empty one means the table.
    pub(super) fn report(&self, key: &str, what: impl Into<String>) {
        let found = self.entries.and_then(|entries| entries.get_key_value(key));
        let at = found.map_or(self.at.clone(), |(key, _)| key.span());
        self.document.report(at, &self.full(key), what);
    }

    /// Refuses every key that nobody asked for, naming the one that was probably meant.
    pub(super) fn finish(self) {
        self.refuse_unknown();
    }

    /// [`Table::finish`] for a table that is only lent.
    pub(super) fn refuse_unknown(&self) {
        let asked = self.asked.borrow();
        for (key, _) in self.entries.into_iter().flatten() {
            if !asked.contains(&key.get_ref().as_ref()) {
                let what = format!("there is no such key{}", hint(key.get_ref(), asked.iter().copied()));
                self.document.report(key.span(), &self.full(key.get_ref()), what);
            }
        }
    }

    pub(super) fn spoilt(document: &'a Document<'a>, name: String, at: Range<usize>) -> Self {
        Self { spoilt: true, ..Self::new(document, name, at, None) }
    }
}
