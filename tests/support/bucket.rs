//! The bucket that an estate's store may lie in, and its objects brought to a folder, to be looked at as a local store's are.

use std::path::Path;

use lifeboat::store::s3::{Access, S3Options};

use super::rgw::Rgw;
use super::s3::{self, Keys};

pub struct Bucket {
    pub endpoint: String,
    pub name: String,
    pub keys: Keys,
    /// Kept running where the estate chose the server itself.
    pub server: Option<Rgw>,
}

impl Bucket {
    /// A fresh one of the good server.
    ///
    /// # Panics
    /// Without Ceph: whoever asks for S3 by name is not served from a folder.
    pub fn fresh() -> Self {
        let server = Rgw::get("LIFEBOAT_TEST_STORE=s3").expect("LIFEBOAT_TEST_STORE=s3 needs Ceph: scripts/ceph.sh");
        Self {
            endpoint: server.endpoint.clone(),
            name: server.bucket(),
            keys: server.keys.clone(),
            server: Some(server),
        }
    }

    /// What stands in the configuration's table of a store.
    pub fn table(&self) -> String {
        let Self { endpoint, name, keys, .. } = self;
        format!("kind = \"s3\"\nendpoint = \"{endpoint}\"\nbucket = \"{name}\"\nprofile = \"{}\"\n", keys.user)
    }

    /// As `doctor` names it.
    pub fn place(&self) -> String {
        format!("s3://{} at {}", self.name, self.endpoint)
    }

    /// For lifeboat's own store, opened by a test.
    pub fn options(&self) -> S3Options {
        let Keys { access_key, secret_key, .. } = &self.keys;
        let keys = aws_sdk_s3::config::Credentials::new(access_key, secret_key, None, None, "test");
        S3Options {
            endpoint: Some(self.endpoint.clone()),
            path_style: true,
            access: Access::Keys(keys),
            ..S3Options::new(&self.name)
        }
    }

    /// Fetches every object that is not in `folder` yet; what is there is taken to be the same, as objects never change.
    pub fn bring(&self, folder: &Path) {
        let client = s3::client(&self.endpoint, &self.keys);
        s3::wait(async {
            let mut pages = client.list_objects_v2().bucket(&self.name).into_paginator().send();
            while let Some(page) = pages.next().await {
                for object in page.expect("a listing").contents() {
                    let name = object.key().expect("a name");
                    let path = folder.join(name);
                    if path.exists() {
                        continue;
                    }
                    let got = client.get_object().bucket(&self.name).key(name).send().await.expect(name);
                    let bytes = got.body.collect().await.expect(name).into_bytes();
                    std::fs::create_dir_all(path.parent().expect("a folder")).expect("its folder");
                    std::fs::write(&path, bytes).expect(name);
                }
            }
        });
    }
}
