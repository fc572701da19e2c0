//! A tenant protected in a bucket and brought back from it, through the binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use support::cluster::{Cluster, Options};
use support::estate::Estate;
use support::folder::{Folder, differences};
use support::rgw::Rgw;
use support::s3::Keys;
use support::tenants::Tenant;
use support::workload::Workload;

#[test]
fn a_tenant_comes_back_from_a_bucket_as_it_was() {
    let Some(rgw) = Rgw::get("a_tenant_comes_back_from_a_bucket_as_it_was") else { return };
    let cluster = Cluster::start(Options::default());
    let estate = Estate::on_s3(&cluster, &[Tenant::Initech], "", &rgw.endpoint, &rgw.bucket(), &rgw.keys);
    estate.run(&["backup"]).expect(0);
    let workload = Workload::start(&cluster, &["initech"], std::time::Duration::from_millis(20));
    workload.advance("initech", 5);
    let moment = workload.moment("initech");
    workload.advance("initech", 3);
    workload.stop();
    estate.run(&["stream", "--once"]).expect(0);
    let points = estate.run(&["points", "initech"]).expect(0);
    assert!(points.json.to_string().contains("initech"), "{:#}", points.json);

    let to = Folder::planned();
    estate.run(&["restore", "initech", "--at", &moment.lsn, "--to", to.text()]).expect(0);
    let running = to.start();
    assert_eq!(differences(&running.server, &to.filestore("initech"), &moment), Vec::<String>::new());
}

#[test]
fn a_bucket_out_of_reach_and_a_wrong_secret_have_their_exit_codes() {
    let Some(rgw) = Rgw::get("a_bucket_out_of_reach_and_a_wrong_secret_have_their_exit_codes") else { return };
    let cluster = Cluster::start(Options::default());
    let bucket = rgw.bucket();
    let estate = Estate::on_s3(&cluster, &[Tenant::Initech], "", &rgw.endpoint, &bucket, &rgw.keys);
    estate.edit(|text| text.replace(&rgw.endpoint, "http://127.0.0.1:1"));
    estate.run(&["points", "initech"]).expect(7);
    estate.edit(|text| text.replace("http://127.0.0.1:1", &rgw.endpoint));
    let wrong = Keys { user: "wrong".to_owned(), secret_key: "not-the-secret".to_owned(), ..rgw.keys.clone() };
    wrong.write_profile(&estate.dir().join("aws"), &wrong.user);
    estate.edit(|text| text.replace("profile = \"admin\"", "profile = \"wrong\""));
    let refused = estate.run(&["points", "initech"]).expect(5);
    assert!(!refused.json.to_string().contains("not-the-secret") && !refused.stderr.contains("not-the-secret"));
    estate.edit(|text| text.replace("profile = \"wrong\"", "profile = \"nobody\""));
    let refused = estate.run(&["points", "initech"]).expect(5);
    assert!(refused.json["error"].to_string().contains("nobody"), "{:#}", refused.json);
}
