//! A put whose checksum is another content's: is it found out?
//!
//! S3 has two sums, and stores check one, both or none; lifeboat sends both. Found in transit or by `verify`: what is stored
//! wrong is never believed, but it is better not stored.

use aws_sdk_s3::types::ChecksumAlgorithm;

use super::canary::Ground;
use super::{Answer, Came, Trouble, answer};
use crate::store::honesty::{Attack, Outcome};

/// Sums of 16 and 32 zero bytes, in base64: nothing has them.
pub(in crate::store) const NO_MD5: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
const NO_SHA256: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

pub(super) async fn wrong(ground: &Ground<'_>) -> Came {
    let key = ground.key(Attack::WrongChecksum.name());
    let md5 = ground.put(&key).content_md5(NO_MD5).send().await;
    let sha256 = ground.put(&key).checksum_algorithm(ChecksumAlgorithm::Sha256).checksum_sha256(NO_SHA256);
    let refused = |said: Answer<_>| match said {
        Answer::Yes(_) => Ok(false),
        Answer::No(_) => Ok(true),
        Answer::Denied => Err(Trouble::NoRight("put without a lock")),
    };
    let (md5, sha256) = (refused(answer(md5)?)?, refused(answer(sha256.send().await)?)?);
    Ok(match (md5, sha256) {
        (true, true) => (Outcome::Refused, "Content-MD5 and SHA-256 are checked".into()),
        (true, false) => (Outcome::Refused, "Content-MD5 is checked, SHA-256 is not".into()),
        (false, true) => (Outcome::Refused, "SHA-256 is checked, Content-MD5 is not".into()),
        (false, false) => (Outcome::Lied, "a content with another's checksums was stored".into()),
    })
}
