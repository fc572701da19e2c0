//! What the store answered, in the three shapes that a drill tells apart.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// An answer to an attack.
#[derive(Debug)]
pub(in crate::store) enum Answer<T> {
    Yes(T),
    /// 403: the lock, or a missing right. S3 uses one answer for both.
    Denied,
    /// Any other refusal, with the server's code.
    No(String),
}

/// Why an attack could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("no canary can be put: {0}")]
    NoCanary(String),
    #[error("not tried with enough rights: this credential may not {0}")]
    NoRight(&'static str),
    #[error("the store does not answer: {0}")]
    Unreachable(String),
    #[error("the store cannot do it: {0}")]
    Unable(String),
}

/// Sorts a result.
///
/// # Errors
/// `Unreachable` when there was no answer, or one that says to ask again (5xx); `Unable` for 501, and for a yes in words that are
/// not the S3 API's.
pub(in crate::store) fn answer<T, E>(result: Result<T, SdkError<E>>) -> Result<Answer<T>, Trouble>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let error = match result {
        Ok(value) => return Ok(Answer::Yes(value)),
        Err(error) => error,
    };
    let Some(status) = error.raw_response().map(|response| response.status().as_u16()) else {
        return Err(Trouble::Unreachable(crate::failure::chain(&error)));
    };
    let code = error.code().unwrap_or("no code");
    match status {
        ..400 => Err(Trouble::Unable(format!("{status}, and an answer that nobody can read"))),
        403 => Ok(Answer::Denied),
        501 => Err(Trouble::Unable(code.to_owned())),
        500.. => Err(Trouble::Unreachable(format!("{status} {code}"))),
        _ => Ok(Answer::No(format!("{status} {code}"))),
    }
}
