//! `lifeboat demo`: the tour on this machine, with the commands that a user would type.
//!
//! A PostgreSQL of its own with three tenants (real Odoo data, carried in the binary), protected into a local folder; a
//! mistake; one tenant brought back to the second before; a drill. Every step is this same program, run as a command that is
//! shown first. Nothing that runs on this machine is touched.

mod cluster;
mod odoo;
mod steps;

use std::path::PathBuf;

use serde_json::json;

use super::context::Context;
use super::outcome::Report;
use crate::failure::{Failure, Kind};

use cluster::DemoCluster;
use steps::Steps;

/// Take the tour on this machine
///
/// Three tenants, a disaster, a restore to the second before, a drill, in about a minute. Needs PostgreSQL on this machine and nothing else; touches no server that runs here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat demo\n  \
    lifeboat demo --dir /tmp/tour --keep      and look around afterwards")]
pub struct Args {
    /// Where it takes place [default: a new temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave everything standing afterwards
    #[arg(long)]
    pub keep: bool,
}

/// The tenant that has the accident.
const VICTIM: &str = "umbrella";

/// Shows.
///
/// # Errors
/// Of the first step that fails; what was started is stopped.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Failed, "the demo's folder", error.to_string(), "name another with --dir")
    };
    let (folder, temporary_folder) = match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(failed)?;
            if std::fs::read_dir(dir).map_err(failed)?.next().is_some() {
                let next = "name a new or empty folder";
                return Err(Failure::new(Kind::Refused, dir.display().to_string(), "is not empty", next));
            }
            (dir.canonicalize().map_err(failed)?, None)
        }
        None => {
            let made = tempfile::Builder::new().prefix("lifeboat-demo-").tempdir().map_err(failed)?;
            match args.keep {
                true => (made.keep(), None),
                false => (made.path().to_owned(), Some(made)),
            }
        }
    };
    let told = tokio::task::block_in_place(|| tour(&folder, context))?;
    let temporary = temporary_folder.is_some();
    let (evidence, report) = (kept(&told, "evidence", temporary), kept(&told, "report", temporary));
    let kept = if temporary { "removed (use --keep to look around)" } else { "kept" };
    let text = format!(
        "\nThe verdict: {}\nEvidence:    {evidence}\nTo look at:  {report}\nThe demo's folder {} is {kept}.\n\n\
         Next: `lifeboat init` looks at what is on this machine and writes a first lifeboat.toml.\n",
        told.get("verdict").and_then(serde_json::Value::as_str).unwrap_or("none"),
        folder.display(),
    );
    Ok(Report::new(json!({ "dir": folder, "drill": told }), text))
}

/// Where a file that the drill wrote can be found afterwards: beside the demo's folder, when that goes.
fn kept(told: &serde_json::Value, field: &str, goes: bool) -> String {
    let path = PathBuf::from(told.get(field).and_then(serde_json::Value::as_str).unwrap_or_default());
    let Some(name) = path.file_name().filter(|_| goes) else { return path.display().to_string() };
    let place = std::env::temp_dir().join(format!("lifeboat-demo-{}", name.to_string_lossy()));
    match std::fs::copy(&path, &place) {
        Ok(_) => place.display().to_string(),
        Err(error) => format!("{} (could not be kept: {error})", path.display()),
    }
}

/// The tour; gives what the drill said.
fn tour(folder: &std::path::Path, context: &Context) -> Result<serde_json::Value, Failure> {
    let steps = Steps::new(folder, !context.json)?;
    steps.say("A PostgreSQL cluster with three tenants, each a real Odoo database with its files");
    let cluster = DemoCluster::start(folder)?;
    for tenant in odoo::TENANTS {
        odoo::load(&cluster, tenant)?;
    }
    steps.write_config(&cluster)?;

    steps.say("The first keys; then the WAL goes into the store as it is written, each tenant's under its own key");
    steps.run(&["init"])?;
    let stream = steps.spawn(&["stream"])?;
    steps.say("One recovery point: base backup, files, who may do what");
    steps.run(&["backup"])?;

    steps.say("A good minute of work, and then somebody's mistake");
    cluster.psql(VICTIM, "UPDATE res_partner SET comment = 'paid in full' WHERE id = 3")?;
    let before = cluster.psql(VICTIM, "SELECT count(*) FROM ir_attachment")?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let moment = cluster
        .psql(VICTIM, "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")?;
    cluster.psql(VICTIM, "DELETE FROM ir_attachment; UPDATE res_partner SET name = 'oops'")?;
    let after = cluster.psql(VICTIM, "SELECT count(*) FROM ir_attachment")?;
    steps.note(&format!("attachments: {} before, {} now", before.trim(), after.trim()));
    std::thread::sleep(std::time::Duration::from_secs(2));
    steps.say("When was it? The commits around the moment, and what they touched");
    steps.run(&["points", VICTIM, "--around", moment.trim()])?;

    steps.say("Back to the second before, beside the live database; nobody else's data is opened");
    let restored = format!("{VICTIM}_before");
    steps.run(&["restore", VICTIM, "--at", moment.trim(), "--into-cluster", "main", "--as", &restored])?;
    let back = cluster.psql(&restored, "SELECT count(*) FROM ir_attachment")?;
    let comment = cluster.psql(&restored, "SELECT comment FROM res_partner WHERE id = 3")?;
    steps.note(&format!("attachments in {restored}: {}; the good minute is there: {}", back.trim(), comment.trim()));
    if back != before {
        let cause = format!("{} attachments came back, {} were there", back.trim(), before.trim());
        return Err(Failure::new(Kind::NotReached, restored, cause, "report this: the demo found a defect"));
    }

    steps.say("A drill: restored in a sandbox with no way out, probed, judged");
    let told = steps.drill(VICTIM)?;
    drop(stream);
    drop(cluster);
    Ok(told)
}
