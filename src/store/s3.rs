//! A bucket with Object Lock as a store (S3 API; Ceph and others speak it too).
//!
//! ```text
//! <prefix>/<name>   the object: COMPLIANCE until the time asked, from its PUT on; x-amz-meta-lifeboat-put: whose put it was
//! ```
//! What the contract wants and S3 does not give by itself:
//!
//! - **Locked from birth.** The lock stands in the PUT. Servers were seen to answer 200 and lock nothing (garage, moto,
//!   Ceph 18 with multipart uploads): the first put of a process and every multipart upload read the lock back, and
//!   fail when it is not there. Nothing is written to a bucket that does not keep versions and locks.
//! - **Create-only.** `If-None-Match: *` is sent and is a courtesy: on a versioned bucket racing puts may all win (Ceph 20)
//!   or the header is ignored (Ceph 18). Readers take the version whose hash is right. A put whose answer got lost and
//!   that finds itself when it is repeated (by the mark above) has succeeded.
//! - **Removed or not there.** S3 answers 204 to the removal of anything: the version is looked at before.
//! - **Time** is the server's, from the `Date` of its answers.
//!
//! At most `requests` requests are under way, fewer while the server throttles (`gate`). The SDK repeats what failed, with
//! full jitter. Nothing is ever removed without its version's id, so this store makes no delete markers.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::honesty::s3::Target;
use super::{Listed, LockState, NAME_BYTES, Promises, Store, StoreError, Version, check_name};
use fitness::Fitness;
use gate::Gate;
use observed::Observed;

mod client;
mod error;
mod fitness;
mod gate;
mod get;
mod list;
mod lock;
mod observed;
mod put;
mod request;
#[cfg(test)]
mod tests;

/// From this size on an object is uploaded in parts.
const MULTIPART_FROM: u64 = 64 << 20;

/// The size of a part: S3 takes 5 MiB to 5 GiB, and 10,000 parts (S3 User Guide, "multipart upload limits").
const PART_BYTES: u64 = 16 << 20;

/// How long a server may make no progress.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who asks.
#[derive(Debug, Clone)]
pub enum Access {
    /// The usual AWS chain: environment, profile, web identity (IRSA), container, instance.
    Chain,
    /// This profile of the AWS configuration, whatever the environment says.
    Profile(String),
    /// These keys; their `Debug` hides the secret.
    Keys(Credentials),
}

/// Where a bucket is and how it is reached.
#[derive(Debug, Clone)]
pub struct S3Options {
    pub bucket: String,
    /// Before every name, without a slash at its ends; empty for none.
    pub prefix: String,
    /// `None`: what the AWS chain says.
    pub region: Option<String>,
    /// `None`: AWS.
    pub endpoint: Option<String>,
    /// The bucket stands in the path rather than in the host's name.
    pub path_style: bool,
    /// Certificates that sign the endpoint's, PEM; instead of the system's.
    pub ca_file: Option<PathBuf>,
    pub access: Access,
    /// How many requests may be under way at once.
    pub requests: u32,
    /// From how many bytes on an object is uploaded in parts.
    pub multipart_from: u64,
    /// How large a part is, at least 5 MiB.
    pub part_bytes: u64,
    /// How many versions a page of a listing has at most; S3 gives 1000.
    pub page: u16,
    /// How long the server may make no progress before a request is given up and repeated.
    pub patience: Duration,
    /// How often a request is tried before the store counts as out of reach.
    pub attempts: u32,
}

impl S3Options {
    /// The usual, for `bucket` of AWS.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            path_style: false,
            ca_file: None,
            access: Access::Chain,
            requests: 16,
            multipart_from: MULTIPART_FROM,
            part_bytes: PART_BYTES,
            page: 1000,
            patience: PATIENCE,
            attempts: 6,
        }
    }
}

/// A store in a bucket.
pub struct S3Store {
    client: Client,
    options: S3Options,
    gate: Arc<Gate>,
    observed: Arc<Observed>,
    fitness: Fitness,
    /// Whether a lock that was set with a put, and one that was extended, was read back.
    put_seen: AtomicBool,
    extend_seen: AtomicBool,
}

impl S3Store {
    /// Opens the bucket and asks whether it keeps versions and locks. Nothing is written.
    ///
    /// # Errors
    /// `Unreachable` when there is no such bucket or nobody answers; `Denied` when there are no credentials, or the store
    /// does not know them; `Other` when the CA file cannot be read or no region is known.
    pub async fn open(options: S3Options) -> Result<Self, StoreError> {
        let (gate, observed) = (Arc::new(Gate::new(options.requests)), Arc::new(Observed::default()));
        let client = client::connect(&options, gate.clone(), observed.clone()).await?;
        let mut store = Self {
            client,
            options,
            gate,
            observed,
            fitness: Fitness::default(),
            put_seen: AtomicBool::new(false),
            extend_seen: AtomicBool::new(false),
        };
        store.fitness = store.probe().await?;
        Ok(store)
    }

    /// Where the honesty drill attacks.
    #[must_use]
    pub fn target(&self) -> Target {
        let (bucket, prefix) = (self.options.bucket.clone(), self.options.prefix.clone());
        Target { client: self.client.clone(), bucket, prefix }
    }

    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.options.bucket
    }

    /// The key of the object `name` in the bucket.
    ///
    /// # Errors
    /// `BadName`, also when it is too long with the prefix.
    pub fn key(&self, name: &str) -> Result<String, StoreError> {
        check_name(name)?;
        let key = self.prefixed(name);
        if key.len() > NAME_BYTES {
            return Err(StoreError::BadName { name: name.to_owned() });
        }
        Ok(key)
    }

    fn prefixed(&self, name: &str) -> String {
        match self.options.prefix.as_str() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        }
    }
}

/// The SDK's own is many pages long.
impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Store")
            .field("options", &self.options)
            .field("fitness", &self.fitness)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for S3Store {
    fn place(&self) -> String {
        let S3Options { bucket, prefix, endpoint, .. } = &self.options;
        let slash = if prefix.is_empty() { "" } else { "/" };
        let at = endpoint.as_ref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        format!("s3://{bucket}{slash}{prefix}{at}")
    }

    fn promises(&self) -> Promises {
        self.fitness.promises()
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        Box::pin(self.server_time()).await
    }

    async fn put(&self, name: &str, bytes: Bytes, locked_until: Timestamp) -> Result<Version, StoreError> {
        let key = self.key(name)?;
        Box::pin(self.put_object(name, &key, bytes, locked_until)).await
    }

    async fn get(&self, name: &str, version: Option<&Version>, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let key = self.key(name)?;
        Box::pin(self.get_object(name, &key, version, range)).await
    }

    fn list<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>> {
        self.list_versions(prefix)
    }

    async fn lock_state(&self, name: &str, version: &Version) -> Result<LockState, StoreError> {
        let key = self.key(name)?;
        Box::pin(self.read_lock(name, &key, version)).await
    }

    async fn extend(&self, name: &str, version: &Version, until: Timestamp) -> Result<(), StoreError> {
        let key = self.key(name)?;
        Box::pin(self.extend_lock(name, &key, version, until)).await
    }

    async fn hold(&self, name: &str, version: &Version, held: bool) -> Result<(), StoreError> {
        let key = self.key(name)?;
        Box::pin(self.set_hold(name, &key, version, held)).await
    }

    async fn remove(&self, name: &str, version: &Version) -> Result<(), StoreError> {
        let key = self.key(name)?;
        Box::pin(self.remove_version(name, &key, version)).await
    }
}
