//! The S3 store on real servers: Ceph, which keeps every lock, and moto, which does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

use std::sync::Arc;

use aws_sdk_s3::config::Credentials;
use lifeboat::clock::Clock;
use lifeboat::store::s3::{Access, S3Options, S3Store};
use lifeboat::store::{Store, contract};
use support::rgw::Rgw;
use support::s3::Keys;

fn options(endpoint: &str, keys: &Keys, bucket: &str) -> S3Options {
    S3Options {
        endpoint: Some(endpoint.to_owned()),
        path_style: true,
        access: Access::Keys(Credentials::new(&keys.access_key, &keys.secret_key, None, None, "test")),
        ..S3Options::new(bucket)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract_on_ceph() {
    let Some(rgw) = Rgw::get("it_keeps_the_contract_on_ceph") else { return };
    let options = S3Options { prefix: "some/estate".to_owned(), ..options(&rgw.endpoint, &rgw.keys, &rgw.bucket()) };
    let make = || async { Ok(Arc::new(S3Store::open(options.clone()).await?) as Arc<dyn Store>) };
    contract::check(make, &Clock::system(), "c").await.unwrap();
}
