//! Listing: every version below a prefix, page by page, in name order.
//!
//! Keys that are no object's name are somebody else's (or an attacker's): skipped, counted, and said in the log. They are
//! asked for in URL encoding, as one that XML cannot hold would otherwise break the whole listing. A server that goes in
//! circles, or out of order, is not believed.

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::{EncodingType, ObjectVersion};
use futures::stream::{self, BoxStream, StreamExt as _};

use super::S3Store;
use super::lock::from_date;
use crate::store::{Listed, StoreError, Version, check_name};

/// Where a listing is.
struct Place {
    /// Key and version after which the next page begins; `None` at the start.
    after: Option<(String, Option<String>)>,
    /// The last name that was told.
    last: String,
    skipped: u64,
}

impl S3Store {
    pub(super) fn list_versions<'a>(&'a self, prefix: &str) -> BoxStream<'a, Result<Listed, StoreError>> {
        if !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) {
            return stream::empty().boxed(); // no name begins like this
        }
        let prefix = self.prefixed(prefix);
        let start = Some(Place { after: None, last: String::new(), skipped: 0 });
        let pages = stream::unfold(start, move |place| {
            let prefix = prefix.clone();
            async move {
                let place = place?;
                Some(match Box::pin(self.page(&prefix, place)).await {
                    Ok((entries, next)) => (entries.into_iter().map(Ok).collect(), next),
                    Err(error) => (vec![Err(error)], None),
                })
            }
        });
        pages.flat_map(stream::iter).boxed()
    }

    async fn page(&self, prefix: &str, mut place: Place) -> Result<(Vec<Listed>, Option<Place>), StoreError> {
        let ask = || async {
            let list = self.client.list_object_versions().bucket(self.bucket()).prefix(prefix);
            let (key, version) = place.after.clone().unzip();
            let list = list.set_key_marker(key).set_version_id_marker(version.flatten());
            let list = list.encoding_type(EncodingType::Url).max_keys(self.options.page.into());
            Ok(list.customize().config_override(self.within(0)).send().await?)
        };
        let told = if prefix.is_empty() { self.bucket() } else { prefix };
        let page = self.request(ask).await.map_err(|trouble| trouble.about(told, "list it"))?;
        let encoded = page.encoding_type == Some(EncodingType::Url);
        let mut entries = Vec::with_capacity(page.versions().len());
        for version in page.versions() {
            let Some(name) = self.name_of(version, encoded) else {
                place.skipped += 1;
                continue;
            };
            if name < place.last {
                return Err(confused(told, "the store lists names out of order"));
            }
            place.last.clone_from(&name);
            entries.push(listed(name, version)?);
        }
        let next = next(told, &page, &place, encoded)?;
        if next.is_none() && place.skipped > 0 {
            tracing::warn!(prefix, skipped = place.skipped, "versions were skipped whose keys are no object's name");
        }
        Ok((entries, next.map(|after| Place { after: Some(after), ..place })))
    }

    /// The object's name; `None` where the key is none.
    fn name_of(&self, version: &ObjectVersion, encoded: bool) -> Option<String> {
        let key = text(version.key.as_deref()?, encoded)?;
        let name = match self.options.prefix.as_str() {
            "" => &key,
            prefix => key.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        check_name(name).is_ok().then(|| name.to_owned())
    }
}

/// Where the next page begins; `None` after the last one.
fn next(
    told: &str,
    page: &ListObjectVersionsOutput,
    place: &Place,
    encoded: bool,
) -> Result<Option<(String, Option<String>)>, StoreError> {
    if page.is_truncated != Some(true) {
        return Ok(None);
    }
    let key = page.next_key_marker.as_deref().and_then(|key| text(key, encoded));
    let Some(key) = key else { return Err(confused(told, "the store does not say where its listing goes on")) };
    let after = (key, page.next_version_id_marker.clone());
    if place.after.as_ref().is_some_and(|before| before.0 > after.0 || *before == after) {
        return Err(confused(told, "the store's listing goes in circles"));
    }
    Ok(Some(after))
}

fn listed(name: String, version: &ObjectVersion) -> Result<Listed, StoreError> {
    let bytes = version.size.and_then(|bytes| u64::try_from(bytes).ok());
    let (Some(bytes), Some(created)) = (bytes, version.last_modified) else {
        return Err(confused(&name, "the store lists it without a size or a time"));
    };
    let created = from_date(&name, &created)?;
    // What was put before the bucket had versions is called this (S3 User Guide, "versioning-enabled bucket").
    let id = version.version_id.clone().unwrap_or_else(|| "null".to_owned());
    Ok(Listed { name, version: Version(id), bytes, created, current: version.is_latest == Some(true) })
}

/// Undoes the URL encoding; `None` where it is broken or not UTF-8.
fn text(key: &str, encoded: bool) -> Option<String> {
    if !encoded {
        return Some(key.to_owned());
    }
    let mut out = Vec::with_capacity(key.len());
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let pair = [bytes.next()?, bytes.next()?];
                out.extend(hex::decode(pair).ok()?);
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

fn confused(name: &str, what: &str) -> StoreError {
    StoreError::Other { name: name.to_owned(), what: what.to_owned(), source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_or_refused() {
        for (key, wanted) in [
            ("a/b-c.d_e", Some("a/b-c.d_e")),
            ("a%2Fb", Some("a/b")),
            ("a%00b", Some("a\0b")),
            ("%C3%A4+%2B", Some("ä +")),
            ("%", None),
            ("%4", None),
            ("%zz", None),
            ("%ff", None),
        ] {
            assert_eq!(text(key, true).as_deref(), wanted, "{key}");
        }
        assert_eq!(text("a%2Fb+", false).as_deref(), Some("a%2Fb+"));
    }
}
