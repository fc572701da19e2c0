//! A tenant protected in a bucket and brought back from it, through the binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod support;

use support::cluster::{Cluster, Options};
use support::estate::{CLUSTER, Estate};
use support::folder::{Folder, differences};
use support::markers::Markers;
use support::opened;
use support::rgw::Rgw;
use support::s3::Keys;
use support::tenants::{self, Tenant};
use support::workload::Workload;

/// What `restore_moments` shows of a folder, for one moment: `LIFEBOAT_TEST_STORE=s3` runs all of that in a bucket.
#[test]
fn a_tenant_comes_back_from_a_bucket_as_it_was_and_nobody_elses_data_is_opened() {
    let test = "a_tenant_comes_back_from_a_bucket_as_it_was_and_nobody_elses_data_is_opened";
    let Some(rgw) = Rgw::get(test) else { return };
    let tenants = match tenants::missing() {
        None => vec![Tenant::Acme, Tenant::Globex],
        Some(why) => {
            support::skip("a restore from a bucket beside another tenant", why);
            vec![Tenant::Initech]
        }
    };
    let names: Vec<&'static str> = tenants.iter().map(|tenant| tenant.name()).collect();
    let (ours, other) = (names[0], names.get(1));
    let cluster = Cluster::start(Options { tenants: tenants.clone(), ..Options::default() });
    let estate = Estate::on_s3(&cluster, &tenants, "", &rgw.endpoint, &rgw.bucket(), &rgw.keys);
    let mut markers = Markers::default();
    let mut plant = || other.into_iter().for_each(|name| markers.plant(&cluster.server, name));
    plant();
    estate.run(&["backup"]).expect(0);
    let workload = Workload::start(&cluster, &names, std::time::Duration::from_millis(20));
    workload.advance(ours, 5);
    plant();
    let moment = workload.moment(ours);
    workload.advance(ours, 3);
    workload.stop();
    estate.run(&["stream", "--once"]).expect(0);
    let points = estate.run(&["points", ours]).expect(0);
    assert!(points.json.to_string().contains(ours), "{:#}", points.json);

    let to = Folder::planned();
    let scopes = [format!("tenant/{ours}"), format!("cluster/{CLUSTER}")];
    let scopes = scopes.each_ref().map(String::as_str);
    let restored =
        estate.with_only(&scopes, || estate.run(&["restore", ours, "--at", &moment.lsn, "--to", to.text()]).expect(0));
    let opened = opened::of(&estate, &restored, &scopes);
    assert_eq!(opened.closed, Vec::<String>::new(), "was fetched although it is sealed to others");
    assert!(opened.bytes() > 10 << 20, "only {} bytes were opened", opened.bytes());
    for piece in &opened.pieces {
        assert_eq!(markers.search_bytes(&piece.name, &piece.content), Vec::new());
    }
    assert_eq!(markers.search(&[&to.path]), Vec::new());
    let running = to.start();
    assert_eq!(differences(&running.server, &to.filestore(ours), &moment), Vec::<String>::new());
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
