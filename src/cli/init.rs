//! `lifeboat init`: looks at what is here, writes a commented `lifeboat.toml`, makes the first keys.
//!
//! Can be run again: a configuration that exists is left as it is and read, keys that exist are left alone. It changes
//! nothing on any server.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::context::Context;
use super::key;
use super::outcome::Report;
use crate::config::{Config, Role};
use crate::failure::{Failure, Kind};
use crate::ids::{Scope, is_plain_name};
use crate::watch;

mod draft;
mod look;
mod policies;

use draft::Draft;

/// Look at what is here, write a commented lifeboat.toml, make the first keys
///
/// Looks at the servers that PGHOST, PGPORT, PGUSER and PGPASSWORD name, else at the sockets in the usual folders, and
/// at Odoo's usual filestores. A file that exists is never overwritten: run it again after a correction.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat init\n  \
    lifeboat init --print-policies ceph | jq .bucket_policy\n  \
    lifeboat init --print-policies aws --role reader --tenant acme\n  \
    PGHOST=db1 PGUSER=backup lifeboat --config /etc/lifeboat/lifeboat.toml init --store /srv/lifeboat")]
pub struct Args {
    /// The folder that will hold the backups [default: `store` beside the configuration]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// The estate's name
    #[arg(long, default_value = "estate", value_parser = plain)]
    pub name: String,
    /// How many keys to make beforehand, for databases that nobody has mapped
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub spares: u32,
    /// Print the least bucket policy of each role, for whoever administers the bucket, and do nothing else
    #[arg(long, value_name = "DIALECT", value_enum)]
    pub print_policies: Option<policies::Of>,
    /// Only this role's policy
    #[arg(long, value_name = "ROLE", value_parser = super::doctor::role, requires = "print_policies")]
    pub role: Option<Role>,
    /// A reader confined to this tenant
    #[arg(long, value_name = "TENANT", requires = "print_policies")]
    pub tenant: Option<String>,
    /// For another place than [store]: a second copy, a keys store
    #[arg(long, value_name = "BUCKET[/PREFIX]", value_parser = policies::bucket, requires = "print_policies")]
    pub bucket: Option<(String, String)>,
    /// It is a keys store
    #[arg(long, requires = "bucket")]
    pub keys: bool,
}

/// Writes what is missing: the configuration, the keys, or both.
///
/// # Errors
/// When the configuration that is there is wrong, or something cannot be written.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    if let Some(of) = args.print_policies {
        return policies::print(of, &args, context);
    }
    let path = context.config_to_write();
    let wrote = !path.exists();
    if wrote {
        write_config(&args, &path, context).await?;
    } else {
        watch::note(&*context.watch, path.display().to_string(), "is there already and is left as it is");
    }
    let config = Config::load(&path)?;
    let made = key::make_missing(context, &config, args.spares).await?;
    Ok(report(&path, wrote, &config, &made))
}

async fn write_config(args: &Args, path: &Path, context: &Context) -> Result<(), Failure> {
    let servers = look::servers().await;
    for server in &servers {
        if let Err(cause) = &server.databases {
            let next =
                "set PGHOST, PGPORT, PGUSER and PGPASSWORD and begin again, or write its databases down yourself";
            watch::warn(&*context.watch, format!("server {}:{}", server.host, server.port), cause, next);
        }
    }
    if servers.is_empty() {
        let next = "set PGHOST, PGPORT, PGUSER and PGPASSWORD and begin again, or write the cluster down yourself";
        watch::warn(&*context.watch, "PostgreSQL", "no server was found on this machine", next);
    }
    // What is typed is relative to where it is typed; what stands in the file, to the file.
    let store = args.store.as_deref().map(std::path::absolute).transpose().map_err(|error| {
        Failure::new(Kind::Usage, "--store", error.to_string(), "give the folder as an absolute path")
    })?;
    let draft = Draft {
        name: args.name.clone(),
        store: store.unwrap_or_else(|| "store".into()),
        state_dir: (!rustix::process::geteuid().is_root()).then(|| "state".into()),
        servers,
        filestores: look::filestores(),
    };
    let text = draft.text();
    // What is written must be what is read: a name that makes no sense shows here, before there is a file.
    Config::parse(&text, path)?;
    write_new(path, &text)
}

/// Whole or not at all, and never over something: a temporary file, linked to the name if that is still free.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let next = "choose another place with --config";
        Failure::new(Kind::Failed, path.display().to_string(), format!("cannot be written: {error}"), next)
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    // It holds no secret, and whoever backs up must read it.
    let open = std::fs::Permissions::from_mode(0o644);
    let mut file = tempfile::Builder::new().permissions(open).tempfile_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn report(path: &Path, wrote: bool, config: &Config, made: &[Scope]) -> Report {
    let (clusters, tenants) = (config.clusters.len(), config.tenants.len());
    let verb = if wrote { "wrote" } else { "kept" };
    let mut text = format!("{verb} {}: clusters {clusters}, tenants {tenants}\n", path.display());
    text += &match made.len() {
        0 => "made no keys: every scope has one\n".to_owned(),
        scopes => format!("made the keys of {scopes} scopes; `lifeboat key list` shows them\n"),
    };
    if let (false, Some(identities)) = (made.is_empty(), &config.keys.identities) {
        let _ = write!(
            text,
            "\nWhoever has {} reads every backup.\n\
             Copy it to two places under different people, then take it off this machine.\n",
            identities.display()
        );
    }
    let _ = writeln!(text, "\nNext: read {}, then run `lifeboat backup`.", path.display());
    let clusters: Vec<&String> = config.clusters.keys().collect();
    let tenants: Vec<&String> = config.tenants.keys().collect();
    Report::new(json!({ "config": path, "wrote": wrote, "clusters": clusters, "tenants": tenants, "made": made }), text)
}

fn plain(text: &str) -> Result<String, String> {
    match is_plain_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a-z, 0-9, '-' and '_', at most 63, a letter or digit first".to_owned()),
    }
}

/// A plain name made of any text: lower case, what is not allowed becomes `-`; numbered when `taken`.
fn plain_name(text: &str, taken: &[String]) -> String {
    let lower = text.to_lowercase();
    let kept = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '-' };
    let name: String = lower.chars().map(kept).collect::<String>();
    let name: String = name.trim_start_matches(['-', '_']).chars().take(48).collect();
    let name = if name.is_empty() { "tenant".to_owned() } else { name };
    let free = |name: &String| !taken.contains(name) && !crate::config::tenant::RESERVED.contains(&name.as_str());
    if free(&name) {
        return name;
    }
    (2..).map(|n: u32| format!("{name}-{n}")).find(free).unwrap_or(name)
}
