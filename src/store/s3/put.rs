//! Writing: in one request, or in parts when it is large; locked from birth, or not called written.
//!
//! Each put carries a random mark. When the store says that the name exists, the object that is there is looked at: a put
//! whose answer got lost finds its own mark, and has succeeded.

use std::sync::atomic::Ordering;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ObjectLockMode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::S3Store;
use super::error::Trouble;
use super::lock::{to_date, whole_seconds};
use super::request::jittered;
use crate::store::{StoreError, Version};

/// The metadata that holds a put's mark (`x-amz-meta-` before it on the wire).
const MARK: &str = "lifeboat-put";

/// S3 refuses a lock that ends in the past; one that is asked for ends so much later than now.
const SHORTEST_LOCK: SignedDuration = SignedDuration::from_secs(10);

/// How many parts of one upload are under way; each also needs its turn at the gate.
const PARTS_AT_ONCE: usize = 8;

/// S3 takes no more (S3 User Guide, "multipart upload limits").
const MOST_PARTS: u64 = 10_000;

/// How often a put is repeated that met another one of the same name (S3 answers 409 to such).
const MEETINGS: u32 = 5;

/// One object on its way.
struct Parcel<'a> {
    name: &'a str,
    key: &'a str,
    bytes: Bytes,
    until: Timestamp,
    mark: String,
}

impl S3Store {
    pub(super) async fn put_object(
        &self,
        name: &str,
        key: &str,
        bytes: Bytes,
        locked_until: Timestamp,
    ) -> Result<Version, StoreError> {
        self.check_writable()?;
        let now = self.server_time().await?;
        let past = locked_until < now;
        let until = whole_seconds(if past { now.checked_add(SHORTEST_LOCK).unwrap_or(now) } else { locked_until });
        let parcel = Parcel { name, key, bytes, until, mark: mark(name)? };
        if parcel.bytes.len() as u64 >= self.options.multipart_from {
            return self.put_in_parts(&parcel).await;
        }
        let version = self.put_at_once(&parcel).await?;
        if !self.put_seen.load(Ordering::Relaxed) {
            self.see_lock(name, key, &version, until).await?;
            self.put_seen.store(true, Ordering::Relaxed);
        }
        Ok(version)
    }

    async fn put_at_once(&self, parcel: &Parcel<'_>) -> Result<Version, StoreError> {
        let sum = BASE64.encode(Sha256::digest(&parcel.bytes));
        let ask = || async {
            let put = self.client.put_object().bucket(self.bucket()).key(parcel.key).if_none_match("*");
            let put = put.checksum_algorithm(ChecksumAlgorithm::Sha256).checksum_sha256(&sum);
            let put = put.object_lock_mode(ObjectLockMode::Compliance).metadata(MARK, &parcel.mark);
            let put = put.object_lock_retain_until_date(to_date(parcel.until)).body(parcel.bytes.clone().into());
            let limits = self.within(parcel.bytes.len() as u64);
            Ok(put.customize().config_override(limits).send().await?)
        };
        let mut meeting = 0;
        let answer = loop {
            match self.request(ask).await {
                Err(trouble) if meeting < MEETINGS && trouble.status() == 409 => {
                    meeting += 1;
                    tokio::time::sleep(jittered(std::time::Duration::from_millis(200 << meeting))).await;
                }
                done => break done,
            }
        };
        match answer {
            Ok(answer) => versioned(parcel.name, answer.version_id),
            Err(trouble) => self.perhaps_ours(parcel, trouble).await,
        }
    }

    /// A put that the store refuses because the name exists: what exists may be this very put.
    async fn perhaps_ours(&self, parcel: &Parcel<'_>, trouble: Trouble) -> Result<Version, StoreError> {
        let name = parcel.name;
        let exists = trouble.status() == 412 || trouble.status() == 409;
        // Completing an upload twice finds it gone.
        if !exists && !trouble.has_code(&["NoSuchUpload"]) {
            return Err(trouble.about(name, "put it"));
        }
        match self.head(name, parcel.key, None).await {
            Ok(head) if head.metadata.as_ref().and_then(|marks| marks.get(MARK)) == Some(&parcel.mark) => {
                versioned(name, head.version_id)
            }
            _ if exists => Err(StoreError::Exists { name: name.to_owned() }),
            _ => Err(trouble.about(name, "put it")),
        }
    }

    /// Servers were seen to drop the lock of an upload in parts: it is set afterwards then, and read back in any case.
    async fn put_in_parts(&self, parcel: &Parcel<'_>) -> Result<Version, StoreError> {
        let begin = || async {
            let begin = self.client.create_multipart_upload().bucket(self.bucket()).key(parcel.key);
            let begin = begin.checksum_algorithm(ChecksumAlgorithm::Sha256).metadata(MARK, &parcel.mark);
            let begin = begin.object_lock_mode(ObjectLockMode::Compliance);
            let begin = begin.object_lock_retain_until_date(to_date(parcel.until));
            Ok(begin.customize().config_override(self.within(0)).send().await?)
        };
        let begun = self.request(begin).await.map_err(|trouble| trouble.about(parcel.name, "put it"))?;
        let Some(upload) = begun.upload_id else {
            let what = "the store began an upload without an id".to_owned();
            return Err(StoreError::Other { name: parcel.name.to_owned(), what, source: None });
        };
        let version = match self.upload(parcel, &upload).await {
            Ok(version) => version,
            Err(error) => {
                self.abandon(parcel, &upload).await;
                return Err(error);
            }
        };
        let Parcel { name, key, until, .. } = *parcel;
        if self.retention(name, key, &version).await?.is_none_or(|ends| ends < until) {
            tracing::debug!(object = name, "the store dropped the lock of an upload in parts; setting it");
            self.set_retention(key, &version, until).await.map_err(|trouble| trouble.about(name, "lock it"))?;
            self.see_lock(name, key, &version, until).await?;
        }
        Ok(version)
    }

    async fn upload(&self, parcel: &Parcel<'_>, upload: &str) -> Result<Version, StoreError> {
        let size = self.options.part_bytes.max((parcel.bytes.len() as u64).div_ceil(MOST_PARTS));
        let size = usize::try_from(size).unwrap_or(usize::MAX).max(1);
        let pieces = (0..parcel.bytes.len()).step_by(size).zip(1..);
        let pieces = pieces.map(|(at, number)| {
            let piece = parcel.bytes.slice(at..parcel.bytes.len().min(at.saturating_add(size)));
            self.upload_part(parcel, upload, number, piece)
        });
        let parts: Vec<CompletedPart> = stream::iter(pieces).buffered(PARTS_AT_ONCE).try_collect().await?;
        let whole = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let finish = || async {
            let finish = self.client.complete_multipart_upload().bucket(self.bucket()).key(parcel.key);
            let finish = finish.upload_id(upload).if_none_match("*").multipart_upload(whole.clone());
            // The server puts the parts together meanwhile, at its own speed.
            let limits = self.within(parcel.bytes.len() as u64);
            Ok(finish.customize().config_override(limits).send().await?)
        };
        match self.request(finish).await {
            Ok(answer) => match answer.version_id {
                Some(version) => Ok(Version(version)),
                // Ceph 16 and 18 do not tell it here.
                None => versioned(parcel.name, self.head(parcel.name, parcel.key, None).await?.version_id),
            },
            Err(trouble) => self.perhaps_ours(parcel, trouble).await,
        }
    }

    async fn upload_part(
        &self,
        parcel: &Parcel<'_>,
        upload: &str,
        number: i32,
        piece: Bytes,
    ) -> Result<CompletedPart, StoreError> {
        let sum = BASE64.encode(Sha256::digest(&piece));
        let ask = || async {
            let part = self.client.upload_part().bucket(self.bucket()).key(parcel.key).upload_id(upload);
            let part = part.part_number(number).body(ByteStream::from(piece.clone()));
            let part = part.checksum_algorithm(ChecksumAlgorithm::Sha256).checksum_sha256(&sum);
            Ok(part.customize().config_override(self.within(piece.len() as u64)).send().await?)
        };
        let sent = self.request(ask).await.map_err(|trouble| trouble.about(parcel.name, "put a part of it"))?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).checksum_sha256(sum);
        Ok(part.build())
    }

    /// Frees what the parts take; what fails here costs room until the bucket's own rule removes it.
    async fn abandon(&self, parcel: &Parcel<'_>, upload: &str) {
        let abort = self.client.abort_multipart_upload().bucket(self.bucket()).key(parcel.key).upload_id(upload);
        if let Err(error) = abort.send().await {
            tracing::warn!(object = parcel.name, error = crate::failure::chain(&error), "parts of an upload stay");
        }
    }
}

fn versioned(name: &str, version: Option<String>) -> Result<Version, StoreError> {
    version.map(Version).ok_or_else(|| StoreError::Unfit {
        name: name.to_owned(),
        what: "the store took it and gave it no version, so it is not locked".to_owned(),
    })
}

fn mark(name: &str) -> Result<String, StoreError> {
    let mut mark = [0; 16];
    match getrandom::fill(&mut mark) {
        Ok(()) => Ok(hex::encode(mark)),
        Err(error) => Err(StoreError::Other {
            name: name.to_owned(),
            what: "the system gives no random bytes".to_owned(),
            source: Some(error.to_string().into()),
        }),
    }
}
