//! The demo's tenants: a small real Odoo database with its filestore, carried in the binary, three times.

use std::io::Read as _;

use super::cluster::DemoCluster;
use crate::failure::{Failure, Kind};

pub const TENANTS: [&str; 3] = ["initech", "hooli", "umbrella"];

/// `pg_dump -Fc`, then zstd; the role that owns it is `odoo_initech`.
const DUMP: &[u8] = include_bytes!("../../../tests/data/initech/initech.dump.zst");
/// tar, then zstd; top folder `initech/`.
const FILESTORE: &[u8] = include_bytes!("../../../tests/data/initech/initech.filestore.tar.zst");

/// Loads one tenant under its own name and role.
///
/// # Errors
/// Of PostgreSQL or the disk.
pub fn load(cluster: &DemoCluster, tenant: &str) -> Result<(), Failure> {
    let role = format!("odoo_{tenant}");
    let failed = |error: std::io::Error| cluster.disk(&error);
    let dump = cluster.folder.join("initech.dump");
    if !dump.exists() {
        std::fs::write(&dump, unpacked(DUMP)?).map_err(failed)?;
    }
    cluster.psql("postgres", &format!("CREATE ROLE {role} LOGIN CREATEDB"))?;
    cluster.psql(
        "postgres",
        &format!("CREATE DATABASE {tenant} OWNER {role} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"),
    )?;
    cluster.psql(tenant, "CREATE EXTENSION pg_trgm")?;
    let dump = dump.to_string_lossy();
    cluster.tool(
        "pg_restore",
        &["--no-owner", "--no-comments", "--role", &role, "--exit-on-error", "-d", tenant, &dump],
    )?;

    let filestore = cluster.folder.join("odoo/filestore");
    std::fs::create_dir_all(&filestore).map_err(failed)?;
    let unpacking = cluster.folder.join(format!("odoo/unpacking-{tenant}"));
    tar::Archive::new(&unpacked(FILESTORE)?[..]).unpack(&unpacking).map_err(failed)?;
    std::fs::rename(unpacking.join("initech"), filestore.join(tenant)).map_err(failed)?;
    std::fs::remove_dir(&unpacking).map_err(failed)?;
    cluster.give(&cluster.folder.join("odoo"))
}

fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut plain = Vec::new();
    let decoded = zstd::stream::read::Decoder::new(bytes).and_then(|mut decoder| decoder.read_to_end(&mut plain));
    decoded.map(|_| plain).map_err(|error| {
        Failure::new(Kind::Failed, "the demo's data", error.to_string(), "report this defect: the binary is damaged")
    })
}
