//! A store that remembers what was asked of it, so that a test can say what was fetched, and what was not.
//!
//! Every call is in [`Counting::calls`], in the order in which they were answered, failed ones included; a listing
//! counts when it is asked for. With a log, each is also one JSON line in a file, for tests that can only see the
//! binary from outside. For tests: the list grows with every call.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Listed, LockState, Promises, Store, StoreError, Version};

/// Which call of [`Store`] it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Now,
    Put,
    Get,
    List,
    LockState,
    Extend,
    Hold,
    Remove,
}

/// One call, as it is kept and as a log line has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub op: Op,
    /// The object's name; for `List` the prefix, for `Now` empty.
    pub name: String,
    /// What a `Get` asked for; `None` is all of it.
    pub range: Option<Range<u64>>,
    /// Moved by a `Put` or a `Get` that succeeded; 0 otherwise.
    pub bytes: u64,
    pub ok: bool,
}

/// Passes every call on and keeps note of it.
#[derive(Debug)]
pub struct Counting {
    inner: Arc<dyn Store>,
    calls: Mutex<Vec<Call>>,
    log: Option<File>,
}

impl Counting {
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, calls: Mutex::default(), log: None }
    }

    /// Also appends each call to the file at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn with_log(mut self, path: &Path) -> Result<Self, StoreError> {
        let opened = File::options().create(true).append(true).open(path);
        self.log = Some(opened.map_err(|error| StoreError::Other {
            name: path.display().to_string(),
            what: "the store's log cannot be opened".to_owned(),
            source: Some(Box::new(error)),
        })?);
        Ok(self)
    }

    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sum over all `Get`s.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.calls().iter().filter(|call| call.op == Op::Get).map(|call| call.bytes).sum()
    }

    /// The objects of which something was read, each once, in name order.
    #[must_use]
    pub fn names_read(&self) -> Vec<String> {
        let reads = self.calls().into_iter().filter(|call| call.op == Op::Get && call.ok);
        reads.map(|call| call.name).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    fn note<T>(&self, op: Op, name: &str, range: Option<Range<u64>>, bytes: u64, outcome: &Result<T, StoreError>) {
        let ok = outcome.is_ok();
        let call = Call { op, name: name.to_owned(), range, bytes: if ok { bytes } else { 0 }, ok };
        // The list's mutex also keeps the log's lines apart and in the same order.
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut log) = self.log.as_ref() {
            let line = serde_json::to_string(&call).map(|line| line + "\n").unwrap_or_default();
            if let Err(error) = log.write_all(line.as_bytes()) {
                tracing::warn!(%error, "the store's log cannot be written");
            }
        }
        calls.push(call);
    }
}

#[async_trait]
impl Store for Counting {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        let outcome = self.inner.now().await;
        self.note(Op::Now, "", None, 0, &outcome);
        outcome
    }

    async fn put(&self, name: &str, bytes: Bytes, locked_until: Timestamp) -> Result<Version, StoreError> {
        let length = bytes.len() as u64;
        let outcome = self.inner.put(name, bytes, locked_until).await;
        self.note(Op::Put, name, None, length, &outcome);
        outcome
    }

    async fn get(&self, name: &str, version: Option<&Version>, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let outcome = self.inner.get(name, version, range.clone()).await;
        self.note(Op::Get, name, range, outcome.as_ref().map_or(0, |bytes| bytes.len() as u64), &outcome);
        outcome
    }

    fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>> {
        self.note(Op::List, prefix, None, 0, &Ok(()));
        self.inner.list(prefix)
    }

    async fn lock_state(&self, name: &str, version: &Version) -> Result<LockState, StoreError> {
        let outcome = self.inner.lock_state(name, version).await;
        self.note(Op::LockState, name, None, 0, &outcome);
        outcome
    }

    async fn extend(&self, name: &str, version: &Version, until: Timestamp) -> Result<(), StoreError> {
        let outcome = self.inner.extend(name, version, until).await;
        self.note(Op::Extend, name, None, 0, &outcome);
        outcome
    }

    async fn hold(&self, name: &str, version: &Version, held: bool) -> Result<(), StoreError> {
        let outcome = self.inner.hold(name, version, held).await;
        self.note(Op::Hold, name, None, 0, &outcome);
        outcome
    }

    async fn remove(&self, name: &str, version: &Version) -> Result<(), StoreError> {
        let outcome = self.inner.remove(name, version).await;
        self.note(Op::Remove, name, None, 0, &outcome);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::contract;
    use crate::store::local::LocalStore;

    fn fresh() -> (tempfile::TempDir, Clock, Arc<dyn Store>) {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::set_to("2026-11-22T08:00:00Z".parse().unwrap());
        let local = Arc::new(LocalStore::open(folder.path(), clock.clone()).unwrap());
        (folder, clock, local)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_keeps_the_contract_of_what_it_counts() {
        let (_folder, clock, local) = fresh();
        let make = || async { Ok(Arc::new(Counting::new(local.clone())) as Arc<dyn Store>) };
        contract::check(make, &clock, "c").await.unwrap();
    }

    #[tokio::test]
    async fn it_tells_what_was_read_and_how_much() {
        let (_folder, clock, local) = fresh();
        let store = Counting::new(local);
        store.put("a/1", Bytes::from_static(b"0123456789"), clock.now()).await.unwrap();
        store.get("a/1", None, Some(2..5)).await.unwrap();
        store.get("a/2", None, None).await.unwrap_err();
        assert_eq!(store.bytes_read(), 3);
        assert_eq!(store.names_read(), ["a/1"]);
        let asked: Vec<_> = store.calls().into_iter().map(|call| (call.op, call.range, call.bytes, call.ok)).collect();
        assert_eq!(asked, [(Op::Put, None, 10, true), (Op::Get, Some(2..5), 3, true), (Op::Get, None, 0, false)]);
    }

    #[tokio::test]
    async fn its_log_has_each_call_as_a_line_and_is_appended_to() {
        let (folder, clock, local) = fresh();
        let log = folder.path().join("calls.jsonl");
        for name in ["a", "b"] {
            let store = Counting::new(local.clone()).with_log(&log).unwrap();
            store.put(name, Bytes::from_static(b"x"), clock.now()).await.unwrap();
        }
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().next(), Some(r#"{"op":"put","name":"a","range":null,"bytes":1,"ok":true}"#));
        let calls: Vec<Call> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(calls.iter().map(|call| call.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }
}
