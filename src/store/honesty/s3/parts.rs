//! Attacks with an upload in parts, whose lock headers many stores forget.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ObjectLockMode, ObjectLockRetentionMode};
use jiff::Timestamp;

use super::canary::{Canary, Ground, date};
use super::{Answer, Came, Target, Trouble, answer};
use crate::store::honesty::{Attack, Outcome};

/// With lock headers: locked when it is complete? Where not, can the lock be set then, as lifeboat does?
pub(super) async fn locked(ground: &Ground<'_>) -> Came {
    let key = ground.key(Attack::PartsUnlocked.name());
    let until = ground.after(ground.locks.lock);
    let version = match upload(ground, &key, Some(until)).await? {
        Answer::Yes(version) => version,
        Answer::Denied => return Err(Trouble::NoRight("upload in parts")),
        Answer::No(code) => return Err(Trouble::Unable(code)),
    };
    let canary = Canary { key, version, until };
    let holds = |lock: Option<(ObjectLockRetentionMode, Timestamp)>| {
        lock.is_some_and(|(mode, end)| mode == ObjectLockRetentionMode::Compliance && end >= until)
    };
    if holds(ground.lock(&canary).await?) {
        return Ok((Outcome::Refused, "locked from its completion on".into()));
    }
    let said = ground.retain(&canary, (ObjectLockRetentionMode::Compliance, until), false).await?;
    if holds(ground.lock(&canary).await?) {
        return Ok((Outcome::SeenThrough, "lock headers are forgotten; a lock set afterwards is kept".into()));
    }
    match said {
        Answer::Denied => Err(Trouble::NoRight("change locks")),
        _ => Ok((Outcome::Lied, "lock headers are forgotten, and no lock can be set afterwards".into())),
    }
}

/// Completed over a locked version, without lock headers.
pub(super) async fn overwrite(ground: &Ground<'_>) -> Came {
    let canary = ground.canary(Attack::OverwriteInParts).await?;
    let said = upload(ground, &canary.key, None).await?;
    ground.survives(&canary, &said).await
}

/// An upload of one part; its version. What cannot be completed is aborted.
async fn upload(ground: &Ground<'_>, key: &str, until: Option<Timestamp>) -> Result<Answer<String>, Trouble> {
    let Target { client, bucket, .. } = ground.target;
    let begun = client.create_multipart_upload().bucket(bucket).key(key);
    let begun = match until {
        Some(until) => begun.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(date(until)),
        None => begun,
    };
    let id = match answer(begun.send().await)? {
        Answer::Yes(begun) => begun.upload_id.unwrap_or_default(),
        Answer::Denied => return Ok(Answer::Denied),
        Answer::No(code) => return Ok(Answer::No(code)),
    };
    let said = complete(ground, key, &id).await;
    if !matches!(said, Ok(Answer::Yes(_))) {
        let _ = client.abort_multipart_upload().bucket(bucket).key(key).upload_id(&id).send().await;
    }
    said
}

async fn complete(ground: &Ground<'_>, key: &str, id: &str) -> Result<Answer<String>, Trouble> {
    let Target { client, bucket, .. } = ground.target;
    let body = ByteStream::from_static(b"A canary of lifeboat's store drill, in one part.\n");
    let part = client.upload_part().bucket(bucket).key(key).upload_id(id).part_number(1).body(body);
    let part = match answer(part.send().await)? {
        Answer::Yes(part) => part,
        Answer::Denied => return Ok(Answer::Denied),
        Answer::No(code) => return Ok(Answer::No(code)),
    };
    let done = CompletedPart::builder().part_number(1).set_e_tag(part.e_tag).set_checksum_crc32(part.checksum_crc32);
    let all = CompletedMultipartUpload::builder().parts(done.build()).build();
    let asked = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(id).multipart_upload(all);
    Ok(match answer(asked.send().await)? {
        Answer::Yes(done) => Answer::Yes(done.version_id.unwrap_or_default()),
        Answer::Denied => Answer::Denied,
        Answer::No(code) => Answer::No(code),
    })
}
