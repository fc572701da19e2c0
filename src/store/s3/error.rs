//! What an S3 error means to a caller.
//!
//! Codes are those of the S3 API's "List of error codes"; servers differ, and answers to HEAD carry none, so the HTTP
//! status decides where the code does not.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::StoreError;

type Source = Box<dyn Error + Send + Sync>;

/// Why a request did not do what it should.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server said no.
    Answer(Answer),
    /// The server did not answer.
    Silence(Source),
    /// Its answer broke off, or stalled.
    Broken(Source),
    /// The request was never sent.
    Unsent(Source),
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Empty when the answer carried none.
    pub(super) code: String,
    pub(super) message: String,
}

impl<E> From<SdkError<E>> for Trouble
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E>) -> Self {
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        match &error {
            SdkError::ServiceError(_) => {
                let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
                Self::Answer(Answer { status, code: text(error.code()), message: text(error.message()) })
            }
            SdkError::ConstructionFailure(_) => Self::Unsent(error.into_source().unwrap_or_else(Into::into)),
            _ => Self::Silence(error.into_source().unwrap_or_else(Into::into)),
        }
    }
}

impl Trouble {
    /// Too much was asked in too short a time.
    pub(super) fn is_throttle(&self) -> bool {
        matches!(self, Self::Answer(answer) if matches!(answer.status, 429 | 503))
    }

    pub(super) fn has_code(&self, codes: &[&str]) -> bool {
        matches!(self, Self::Answer(answer) if codes.contains(&answer.code.as_str()))
    }

    pub(super) fn status(&self) -> u16 {
        if let Self::Answer(answer) = self { answer.status } else { 0 }
    }

    /// The credential was understood and may not do it. A lock answers the same.
    pub(super) fn is_denied(&self) -> bool {
        self.has_code(&["AccessDenied"]) || self.status() == 403 && self.has_code(&[""])
    }

    /// There is no such object or version; a delete marker is none either.
    pub(super) fn is_absence(&self) -> bool {
        let Self::Answer(Answer { status, code, message }) = self else { return false };
        match (status, code.as_str()) {
            (_, "NoSuchKey" | "NoSuchVersion" | "NotFound") | (404, "") | (405, _) => true,
            // AWS has ids that are no version's of anything refused as such; Ceph calls the version's instance that.
            (400, "InvalidArgument" | "") => message.to_ascii_lowercase().contains("version"),
            _ => false,
        }
    }

    /// The error of the store, for what was tried with `name` ("put it", "read it").
    pub(super) fn about(self, name: &str, tried: &str) -> StoreError {
        let owned = name.to_owned();
        if self.is_absence() {
            return StoreError::NotFound { name: owned };
        }
        match self {
            Self::Silence(source) | Self::Broken(source) => StoreError::Unreachable { name: owned, source },
            Self::Unsent(source) => StoreError::Other {
                name: owned,
                what: "the request could not be made".to_owned(),
                source: Some(source),
            },
            Self::Answer(answer) => answered(owned, tried, &answer),
        }
    }
}

fn answered(name: String, tried: &str, answer: &Answer) -> StoreError {
    let io = |kind, text: String| -> Source { std::io::Error::new(kind, text).into() };
    let Answer { status, code, message } = answer;
    let said = match code.as_str() {
        "" => format!("HTTP {status}"),
        code if message.is_empty() => format!("{code} (HTTP {status})"),
        code => format!("{code}: {message} (HTTP {status})"),
    };
    let denied = |what: String| StoreError::Denied { name: name.clone(), what };
    match (status, code.as_str()) {
        (_, "InvalidAccessKeyId") => denied("the store does not know the access key".to_owned()),
        (_, "SignatureDoesNotMatch") => denied("the secret key is not the access key's".to_owned()),
        (_, "ExpiredToken" | "TokenRefreshRequired") => denied("the session's token has expired".to_owned()),
        (_, "InvalidToken") => denied("the session's token is not valid".to_owned()),
        (_, "RequestTimeTooSkewed") => StoreError::Skewed { name },
        (_, "QuotaExceeded" | "QuotaExceededException") | (507, _) => {
            let source = std::io::Error::new(std::io::ErrorKind::QuotaExceeded, said);
            StoreError::Full { name, source }
        }
        (_, "NoSuchBucket") => {
            StoreError::Unreachable { name, source: io(std::io::ErrorKind::NotFound, "there is no such bucket".into()) }
        }
        (401 | 403, _) => denied(format!("the credential may not {tried}: {said}")),
        (429 | 500..600, _) => StoreError::Unreachable { name, source: io(std::io::ErrorKind::Other, said) },
        _ => StoreError::Other { name, what: format!("the store would not {tried}: {said}"), source: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Kind};

    fn kind(status: u16, code: &str, message: &str) -> Kind {
        let answer = Answer { status, code: code.to_owned(), message: message.to_owned() };
        Failure::from(Trouble::Answer(answer).about("a/b", "read it")).kind
    }

    #[test]
    fn each_answer_has_its_kind() {
        for (status, code, message, wanted) in [
            (404, "NoSuchKey", "", Kind::Integrity),
            (404, "NoSuchVersion", "", Kind::Integrity),
            (404, "", "", Kind::Integrity),
            (405, "MethodNotAllowed", "", Kind::Integrity),
            (400, "InvalidArgument", "Invalid version id specified", Kind::Integrity),
            (400, "InvalidArgument", "the date must be in the future", Kind::Failed),
            (403, "AccessDenied", "", Kind::Refused),
            (403, "", "", Kind::Refused),
            (403, "SignatureDoesNotMatch", "", Kind::Refused),
            (403, "InvalidAccessKeyId", "", Kind::Refused),
            (400, "ExpiredToken", "", Kind::Refused),
            (403, "RequestTimeTooSkewed", "", Kind::Refused),
            (403, "QuotaExceeded", "", Kind::Failed),
            (404, "NoSuchBucket", "", Kind::Unreachable),
            (503, "SlowDown", "", Kind::Unreachable),
            (429, "", "", Kind::Unreachable),
            (500, "InternalError", "", Kind::Unreachable),
        ] {
            assert_eq!(kind(status, code, message), wanted, "{status} {code} {message}");
        }
    }
}
