//! Reading: all of a version, or exactly the bytes asked for.
//!
//! What a server answers is measured: a range must be the one asked for, a body as long as it was announced. A body that
//! breaks off or stalls is asked for again.

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use bytes::{Bytes, BytesMut};

use super::S3Store;
use super::error::Trouble;
use crate::store::{StoreError, Version, check_range};

/// Above every size that S3 has (50 TB): a range that ends there is refused without being asked for.
const BEYOND: u64 = 1 << 50;

/// How often a body that broke off is asked for again.
const BODIES: u32 = 3;

/// How much room is made for a body because the server says that it is so long.
const BELIEVED_BYTES: u64 = 64 << 20;

/// What came, and what the server said that it is of.
struct Body {
    bytes: Bytes,
    /// As announced.
    length: Option<u64>,
    /// `Content-Range`: first byte, last byte, the object's size.
    range: Option<(u64, u64, u64)>,
}

impl S3Store {
    pub(super) async fn get_object(
        &self,
        name: &str,
        key: &str,
        version: Option<&Version>,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, StoreError> {
        let Some(range) = range else { return self.get_whole(name, key, version).await };
        if range.start >= range.end || range.end > BEYOND {
            // Nothing that HTTP could ask for; the object's size tells whether it is empty or wrong.
            let head = self.head(name, key, version).await?;
            check_range(name, Some(range), length(name, head.content_length)?)?;
            return Ok(Bytes::new());
        }
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let body = match self.get_body(key, version, Some(&asked)).await {
            Ok(body) => body,
            Err(trouble) if trouble.has_code(&["InvalidRange"]) || trouble.status() == 416 => {
                let head = self.head(name, key, version).await?;
                check_range(name, Some(range), length(name, head.content_length)?)?;
                return Err(wrong(name, "the store refuses a range that the object has"));
            }
            Err(trouble) => return Err(trouble.about(name, "read it")),
        };
        let Some((first, last, bytes)) = body.range else {
            return Err(wrong(name, "the store answered a range with something else"));
        };
        check_range(name, Some(range.clone()), bytes)?;
        let fits = (first, last) == (range.start, range.end - 1) && body.bytes.len() as u64 == range.end - range.start;
        if fits { Ok(body.bytes) } else { Err(wrong(name, "the store answered with another range than was asked for")) }
    }

    async fn get_whole(&self, name: &str, key: &str, version: Option<&Version>) -> Result<Bytes, StoreError> {
        let body = self.get_body(key, version, None).await.map_err(|trouble| trouble.about(name, "read it"))?;
        if body.length == Some(body.bytes.len() as u64) && body.range.is_none() {
            return Ok(body.bytes);
        }
        Err(wrong(name, "the store's answer is not as long as it said"))
    }

    async fn get_body(&self, key: &str, version: Option<&Version>, range: Option<&str>) -> Result<Body, Trouble> {
        let ask = || async {
            let get = self.client.get_object().bucket(self.bucket()).key(key);
            let get = get.set_version_id(version.map(|version| version.0.clone())).set_range(range.map(str::to_owned));
            let answer = get.customize().config_override(self.within(0)).send().await?;
            self.body(answer).await
        };
        let mut round = 1;
        loop {
            match self.request(ask).await {
                Err(Trouble::Broken(error)) if round < BODIES => tracing::debug!(key, round, error, "reading it again"),
                done => return done,
            }
            round += 1;
        }
    }

    /// Takes the body in; one that makes no progress for too long is given up.
    async fn body(&self, mut answer: GetObjectOutput) -> Result<Body, Trouble> {
        let length = answer.content_length.and_then(|length| u64::try_from(length).ok());
        let room = length.unwrap_or(0).min(BELIEVED_BYTES);
        let mut bytes = BytesMut::with_capacity(usize::try_from(room).unwrap_or(0));
        loop {
            match tokio::time::timeout(self.options.patience, answer.body.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(piece))) => bytes.extend_from_slice(&piece),
                Ok(Some(Err(error))) => return Err(Trouble::Broken(error.into())),
                Err(stalled) => return Err(Trouble::Broken(stalled.into())),
            }
        }
        let range = answer.content_range.as_deref().and_then(content_range);
        Ok(Body { bytes: bytes.freeze(), length, range })
    }

    /// What the server says of a version without sending it.
    pub(super) async fn head(
        &self,
        name: &str,
        key: &str,
        version: Option<&Version>,
    ) -> Result<HeadObjectOutput, StoreError> {
        let ask = || async {
            let head = self.client.head_object().bucket(self.bucket()).key(key);
            let head = head.set_version_id(version.map(|version| version.0.clone()));
            Ok(head.customize().config_override(self.within(0)).send().await?)
        };
        self.request(ask).await.map_err(|trouble| trouble.about(name, "look at it"))
    }
}

fn length(name: &str, length: Option<i64>) -> Result<u64, StoreError> {
    let length = length.and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| wrong(name, "the store does not say how long it is"))
}

/// `bytes 0-9/10` (RFC 9110, 14.4).
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

fn wrong(name: &str, what: &str) -> StoreError {
    StoreError::Other { name: name.to_owned(), what: what.to_owned(), source: None }
}
