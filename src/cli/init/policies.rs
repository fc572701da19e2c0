//! `lifeboat init --print-policies`: the least policy of each role, ready to be applied by whoever administers the bucket.

use serde_json::json;

use super::Args;
use crate::cli::context::Context;
use crate::cli::outcome::Report;
use crate::config::{Config, Role, StoreConfig, is_bucket_name, is_prefix};
use crate::failure::{Failure, Kind};
use crate::store::policy::{Confined, Dialect, Grant, Ground, Holds, printed};
use crate::watch;

/// Whose policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Of {
    Aws,
    Ceph,
}

/// Prints them: JSON on stdout, what to do with it on stderr.
///
/// # Errors
/// When no bucket is named anywhere, or a tenant is asked for that is not there.
pub(super) fn print(of: Of, args: &Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let ground = ground(args, &config)?;
    let confined = match &args.tenant {
        Some(id) => Some(Confined { tenant: id.clone(), cluster: config.tenant(id)?.cluster.clone() }),
        None => None,
    };
    let grants = match (args.role, confined) {
        (None | Some(Role::Reader), Some(confined)) => vec![Grant { role: Role::Reader, confined: Some(confined) }],
        (Some(role), Some(_)) => {
            let cause = format!("a {} is not confined to a tenant", role.name());
            return Err(Failure::new(Kind::Usage, "--tenant", cause, "leave it out, or ask for --role reader"));
        }
        (Some(role), None) => vec![Grant::of(role)],
        (None, None) => Role::ALL.into_iter().map(Grant::of).collect(),
    };
    let dialect = match of {
        Of::Aws => Dialect::Aws,
        Of::Ceph => Dialect::Ceph,
    };
    let value = printed(dialect, &grants, &ground);
    for line in instructions(of) {
        watch::note(&*context.watch, format!("bucket {}", ground.bucket), *line);
    }
    let text = serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
    // `--json` has more fields at the top.
    Ok(Report::new(json!({ "policies": value }), text))
}

fn instructions(of: Of) -> &'static [&'static str] {
    match of {
        Of::Aws => &[
            "attach each of identity_policies to the IAM role or user that acts as it, and nothing else to that",
            "set bucket_policy with put-bucket-policy, and object_lock with put-object-lock-configuration",
            "give profiles their names in [store.profiles]; then `lifeboat doctor` says what each credential can",
        ],
        Of::Ceph => &[
            "make the users that `users` names, with radosgw-admin, each with keys of its own",
            "set bucket_policy as the bucket's owner, and object_lock with put-object-lock-configuration",
            "RGW knows no bound on how long a writer locks: a stolen one can fill the bucket for ever",
            "whoever owns the bucket lifts policies, and no lock: keep its keys away from every machine of lifeboat",
        ],
    }
}

fn ground(args: &Args, config: &Config) -> Result<Ground, Failure> {
    let (bucket, prefix) = match (&args.bucket, &config.store) {
        (Some(named), _) => named.clone(),
        (None, StoreConfig::S3(store)) => (store.bucket.clone(), store.prefix.clone()),
        (None, StoreConfig::Local { .. }) => {
            let cause = "the store is a folder, which has no policies";
            return Err(Failure::new(Kind::Usage, "--print-policies", cause, "name a bucket with --bucket"));
        }
    };
    let holds = if args.keys { Holds::Keys } else { Holds::Backups };
    Ok(Ground { bucket, prefix, longest_lock_days: longest_lock_days(config, holds), holds })
}

/// In whole days, and one more for clocks: of backups the longest class with the slack of its point and that of what the point names; of key
/// files what they are renewed for, or a proof is kept for.
fn longest_lock_days(config: &Config, holds: Holds) -> u64 {
    let longest = match holds {
        Holds::Backups => {
            let slack = config.retention.slack;
            let class = config.retention.classes.values().max().copied().unwrap_or_default();
            class.saturating_add(slack).saturating_add(slack)
        }
        Holds::Keys => {
            config.keys.lock.max(config.keys.custody.as_ref().map_or(config.keys.lock, |custody| custody.proof))
        }
    };
    let seconds = longest.as_secs();
    u64::try_from(seconds).unwrap_or(0).div_ceil(86_400) + 1
}

/// `BUCKET[/PREFIX]`.
pub(super) fn bucket(text: &str) -> Result<(String, String), String> {
    let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
    match is_bucket_name(bucket) && (prefix.is_empty() || is_prefix(prefix)) {
        true => Ok((bucket.to_owned(), prefix.to_owned())),
        false => Err("BUCKET or BUCKET/PREFIX, in small letters, digits and '-'".to_owned()),
    }
}
