//! The ransom exercise on a real bucket, through the binary: the bucket owner's own credential deletes, hides and overwrites everything it can reach.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream;
use support::cluster::{Cluster, Options};
use support::estate::Estate;
use support::folder::{Folder, differences};
use support::rgw::Rgw;
use support::s3;
use support::tenants::Tenant;
use support::workload::Workload;

/// Tries to remove each version, then lays junk and a delete marker on top of each name. How many versions there were, and went.
async fn rampage(client: &Client, bucket: &str) -> (usize, usize) {
    let (mut there, mut gone) = (0, 0);
    let listed = client.list_object_versions().bucket(bucket).send().await.unwrap();
    assert_ne!(listed.is_truncated(), Some(true), "one page holds this bucket");
    for version in listed.versions() {
        let (key, id) = (version.key().unwrap(), version.version_id().unwrap());
        there += 1;
        match client.delete_object().bucket(bucket).key(key).version_id(id).send().await {
            Ok(_) => gone += 1,
            Err(error) => assert_eq!(error.code(), Some("AccessDenied"), "{key}: {error:?}"),
        }
        let junk = ByteStream::from_static(b"pay me");
        client.put_object().bucket(bucket).key(key).body(junk).send().await.unwrap();
        client.delete_object().bucket(bucket).key(key).send().await.unwrap();
    }
    (there, gone)
}

#[test]
fn a_bucket_that_its_owner_vandalised_restores_to_the_row_and_verify_says_what_happened() {
    let test = "a_bucket_that_its_owner_vandalised_restores_to_the_row_and_verify_says_what_happened";
    let Some(rgw) = Rgw::get(test) else { return };
    let cluster = Cluster::start(Options::default());
    let bucket = rgw.bucket();
    let estate = Estate::on_s3(&cluster, &[Tenant::Initech], "", &rgw.endpoint, &bucket, &rgw.keys);
    estate.run(&["backup"]).expect(0);
    let workload = Workload::start(&cluster, &["initech"], std::time::Duration::from_millis(20));
    workload.advance("initech", 5);
    let moment = workload.moment("initech");
    workload.advance("initech", 3);
    workload.stop();
    estate.run(&["stream", "--once"]).expect(0);
    estate.run(&["verify", "--level", "1"]).expect(0);

    let (there, gone) = s3::wait(rampage(&rgw.client(), &bucket));
    assert!(there > 20 && gone == 0, "{gone} of {there} locked versions were removed");

    let said = estate.run(&["verify", "--level", "1"]).expect(3);
    let findings = said.json["findings"].as_array().unwrap();
    assert!(findings.len() > 10, "{:#}", said.json);
    let to = Folder::planned();
    estate.run(&["restore", "initech", "--at", &moment.lsn, "--to", to.text()]).expect(0);
    let running = to.start();
    assert_eq!(differences(&running.server, &to.filestore("initech"), &moment), Vec::<String>::new());
}
