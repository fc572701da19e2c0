//! Each cluster: can it be reached, and is it set up so that nothing can be lost? What `stream` asks before its first byte.

use super::Checks;
use crate::cli::open;
use crate::config::{Cluster, Config};
use crate::failure::Failure;
use crate::postgres::sql;
use crate::stream::preflight::{self, ServerFacts};
use crate::watch::{Finding, Level};

const CHECK: &str = "cluster";

pub(super) async fn check(config: &Config, checks: &mut Checks) {
    for cluster in config.clusters.values() {
        match findings(cluster).await {
            Err(failure) => checks.fail(CHECK, failure),
            Ok((version, findings)) => {
                for Finding { level, object, what, next } in findings {
                    match level {
                        Level::Warning => checks.complain(CHECK, object, what, next),
                        Level::Notice => checks.fine(CHECK, object, what),
                    }
                }
                checks.fine(CHECK, &cluster.name, format!("PostgreSQL {version} answers and can be streamed"));
            }
        }
    }
}

async fn findings(cluster: &Cluster) -> Result<(u32, Vec<Finding>), Failure> {
    let server = open::server(cluster)?;
    let mut connection = sql::connect(&server, &server.database).await?;
    let facts = ServerFacts::read(&mut connection, &cluster.slot).await?;
    let found = preflight::judge(&facts, &server.place(), &cluster.slot, cluster.allow_unbounded_slot)?;
    Ok((facts.major(), found))
}
