//! Whether a bucket says that it keeps versions and locks: asked when it is opened, and nothing is written to one that
//! does not say so. That it says so proves nothing: the honesty drill does.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockEnabled};

use super::S3Store;
use super::error::Trouble;
use crate::store::{Promises, StoreError};

/// What the bucket said about one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Said {
    Yes,
    No,
    /// The credential may not ask.
    #[default]
    Untold,
}

#[derive(Debug, Default)]
pub(super) struct Fitness {
    versions: Said,
    locks: Said,
}

impl S3Store {
    /// Asks the bucket.
    pub(super) async fn probe(&self) -> Result<Fitness, StoreError> {
        let ask = || async {
            let ask = self.client.get_bucket_versioning().bucket(self.bucket()).customize();
            match ask.config_override(self.within(0)).send().await {
                Err(error) if misnamed(&error) => Ok(Said::Yes),
                answer => Ok(said(answer?.status == Some(BucketVersioningStatus::Enabled))),
            }
        };
        let versions = match self.request(ask).await {
            Ok(said) => said,
            Err(trouble) => self.untold(trouble, "ask whether it keeps versions")?,
        };
        let ask = || async {
            let ask = self.client.get_object_lock_configuration().bucket(self.bucket()).customize();
            Ok(ask.config_override(self.within(0)).send().await?)
        };
        let locks = match self.request(ask).await {
            Ok(answer) => {
                let found = answer.object_lock_configuration.and_then(|found| found.object_lock_enabled);
                said(found == Some(ObjectLockEnabled::Enabled))
            }
            Err(trouble) if trouble.has_code(&["ObjectLockConfigurationNotFoundError"]) => Said::No,
            Err(trouble) => self.untold(trouble, "ask whether it keeps locks")?,
        };
        Ok(Fitness { versions, locks })
    }

    /// A right that is missing is no reason not to read; anything else is an error.
    fn untold(&self, trouble: Trouble, tried: &str) -> Result<Said, StoreError> {
        if trouble.is_denied() { Ok(Said::Untold) } else { Err(trouble.about(self.bucket(), tried)) }
    }

    /// Refuses to write to a bucket that has not said that it keeps versions and locks.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        let name = self.bucket().to_owned();
        let unfit = |what: &str| Err(StoreError::Unfit { name: name.clone(), what: what.to_owned() });
        match (self.fitness.versions, self.fitness.locks) {
            (Said::Yes, Said::Yes) => Ok(()),
            (_, Said::No) => unfit("the bucket has no Object Lock, so nothing in it would be locked"),
            (Said::No, _) => unfit("the bucket keeps no versions, so locks would not bind"),
            (Said::Untold, _) | (_, Said::Untold) => Err(StoreError::Denied {
                name,
                what: "the credential may not ask whether the bucket keeps versions and locks \
                       (s3:GetBucketVersioning, s3:GetBucketObjectLockConfiguration), or the store does not know it"
                    .to_owned(),
            }),
        }
    }
}

impl Fitness {
    pub(super) fn promises(&self) -> Promises {
        let asked = [(self.versions, "versioning"), (self.locks, "Object Lock")];
        let of = |wanted: Said| asked.into_iter().filter(move |(said, _)| *said == wanted).map(|(_, what)| what);
        let untold = of(Said::Untold).map(|what| format!("this credential may not ask whether the bucket has {what}"));
        let always = [
            "of writers that race for one name several may win, each with a version of its own: a put is no mutex",
            "locks are as good as the server's word: `lifeboat doctor --attack` tries it",
        ];
        Promises {
            create_only: false,
            locks_enforced: (self.versions, self.locks) == (Said::Yes, Said::Yes),
            lacks: of(Said::No).map(|what| format!("the bucket has no {what}")).collect(),
            caveats: untold.chain(always.map(str::to_owned)).collect(),
        }
    }
}

/// moto 5.2.5 says it in an element of another name, which the SDK takes for an error.
fn misnamed<E>(error: &SdkError<E>) -> bool {
    let body =
        error.raw_response().filter(|answer| answer.status().is_success()).and_then(|answer| answer.body().bytes());
    body.is_some_and(|body| String::from_utf8_lossy(body).contains("<Status>Enabled</Status>"))
}

fn said(yes: bool) -> Said {
    if yes { Said::Yes } else { Said::No }
}
