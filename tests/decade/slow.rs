//! A store whose calls take time: each moves the clocks on, and lets others run in between.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};
use lifeboat::clock::Clock;
use lifeboat::store::{Listed, LockState, Promises, Store, StoreError, Version};

#[derive(Debug)]
pub struct Slow {
    pub inner: Arc<dyn Store>,
    pub clocks: Vec<Clock>,
    pub call_takes: SignedDuration,
}

impl Slow {
    async fn pass(&self) {
        for clock in &self.clocks {
            clock.advance(self.call_takes);
        }
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl Store for Slow {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn promises(&self) -> Promises {
        self.inner.promises()
    }
    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.inner.now().await
    }
    async fn put(&self, name: &str, bytes: Bytes, locked_until: Timestamp) -> Result<Version, StoreError> {
        self.pass().await;
        self.inner.put(name, bytes, locked_until).await
    }
    async fn get(&self, name: &str, version: Option<&Version>, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.pass().await;
        self.inner.get(name, version, range).await
    }
    fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>> {
        self.inner.list(prefix)
    }
    async fn lock_state(&self, name: &str, version: &Version) -> Result<LockState, StoreError> {
        self.pass().await;
        self.inner.lock_state(name, version).await
    }
    async fn extend(&self, name: &str, version: &Version, until: Timestamp) -> Result<(), StoreError> {
        self.pass().await;
        self.inner.extend(name, version, until).await
    }
    async fn hold(&self, name: &str, version: &Version, held: bool) -> Result<(), StoreError> {
        self.pass().await;
        self.inner.hold(name, version, held).await
    }
    async fn remove(&self, name: &str, version: &Version) -> Result<(), StoreError> {
        self.pass().await;
        self.inner.remove(name, version).await
    }
}
