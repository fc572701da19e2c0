//! What is the same for every S3 server: keys, a client of the test's own, a fresh bucket.
//!
//! The client is AWS's, and not lifeboat's: a test looks at a bucket with it, or does what an attacker would.

use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};

/// A user's way in.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Whom they belong to; `arn:aws:iam:::user/<user>` in a policy.
    pub user: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Keys {
    pub fn arn(&self) -> String {
        format!("arn:aws:iam:::user/{}", self.user)
    }

    /// As environment variables, for the binary.
    pub fn environment(&self) -> [(&'static str, &str); 2] {
        [("AWS_ACCESS_KEY_ID", &self.access_key), ("AWS_SECRET_ACCESS_KEY", &self.secret_key)]
    }

    /// Appends them to an AWS credentials file as the profile `name`.
    pub fn write_profile(&self, file: &Path, name: &str) {
        let mut text = std::fs::read_to_string(file).unwrap_or_default();
        let Self { access_key, secret_key, .. } = self;
        text += &format!("[{name}]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n\n");
        std::fs::write(file, text).expect("the credentials file");
    }
}

/// A client over plain HTTP, path style.
pub fn client(endpoint: &str, keys: &Keys) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(Credentials::new(&keys.access_key, &keys.secret_key, None, None, "test"));
    Client::from_conf(config.build())
}

/// Waits for a future, from any test, with or without a runtime around it.
pub fn wait<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let run =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future);
    std::thread::scope(|scope| scope.spawn(run).join().expect("it does not panic"))
}

/// A bucket nobody has used, versioned and with Object Lock where `locks` says so.
pub fn fresh_bucket(client: &Client, locks: bool) -> String {
    let name = format!("t-{}", hex::encode(super::random(8)));
    let place = CreateBucketConfiguration::builder();
    // us-east-1 is the one region that may not be named (S3 API, CreateBucket).
    let place = place.set_location_constraint(None::<BucketLocationConstraint>).build();
    let made = client.create_bucket().bucket(&name).object_lock_enabled_for_bucket(locks);
    wait(made.create_bucket_configuration(place).send()).expect("a bucket");
    name
}

/// Lets `policy` (JSON) decide who may do what in `bucket`.
pub fn set_policy(client: &Client, bucket: &str, policy: &serde_json::Value) {
    wait(client.put_bucket_policy().bucket(bucket).policy(policy.to_string()).send()).expect("the policy is taken");
}
