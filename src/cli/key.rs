//! `lifeboat key`: the scopes' keys. No command prints a key.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde_json::json;

use super::context::Context;
use super::outcome::Report;
use super::table::{Cell, Table};
use super::terminal::Tone;
use crate::config::{Config, nearest};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::ceremony::Ceremony;
use crate::repo::key::WriterBundle;
use crate::watch;

/// Make and list the keys of scopes
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    New(New),
    List(List),
}

/// Make the first key of a scope: a tenant or cluster that was added to the configuration
///
/// The writer bundle gets the half that seals, the folder of identities the half that opens. Nothing is overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key new tenant/globex\n  \
    lifeboat key new cluster/second residue/second quarantine/second")]
pub struct New {
    /// tenant/ID, cluster/NAME, residue/NAME, quarantine/NAME, estate or spare/N
    #[arg(value_name = "SCOPE", required = true)]
    pub scopes: Vec<Scope>,
}

/// List the scopes, and on which side of them this machine stands
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key list\n  \
    lifeboat key list --json | jq '.scopes[] | select(.opens)'")]
pub struct List {}

/// Makes or lists.
///
/// # Errors
/// When a scope has a key already or is none of the configuration's, or a file cannot be read or written.
pub async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    match args {
        Args::New(args) => {
            args.scopes.iter().try_for_each(|scope| known(&config, scope))?;
            let made = Ring::of(&config)?.make(&args.scopes)?;
            let lines: String = made.iter().map(|scope| format!("made the key of {scope}\n")).collect();
            Ok(Report::new(json!({ "made": made }), lines))
        }
        Args::List(List {}) => list(&config, context),
    }
}

/// A key for a scope that the configuration does not have would never be used: it is a slip.
fn known(config: &Config, scope: &Scope) -> Result<(), Failure> {
    let scopes = config.scopes();
    if matches!(scope, Scope::Spare(_)) || scopes.contains(scope) {
        return Ok(());
    }
    let names: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    let hint = nearest::hint(&scope.to_string(), names.iter().map(String::as_str));
    let cause = format!("{} has no such scope{hint}", config.path.display());
    Err(Failure::new(Kind::Usage, scope.to_string(), cause, "add it to the configuration first"))
}

/// Makes what `init` needs: a key for every scope of `config` that has none, and for a new writer `spares` more.
/// Returns the scopes that got one.
///
/// # Errors
/// When the configuration does not say where keys go, or a file cannot be read or written.
pub(super) fn make_missing(config: &Config, spares: u32) -> Result<Vec<Scope>, Failure> {
    let ring = Ring::of(config)?;
    let mut scopes = config.scopes();
    if ring.writer.exists() {
        let bundle = WriterBundle::read(ring.writer)?;
        scopes.retain(|scope| !bundle.scopes.contains_key(scope));
    } else {
        scopes.extend((1..=spares).map(Scope::Spare));
    }
    if scopes.is_empty() { Ok(scopes) } else { ring.make(&scopes) }
}

/// The three places of `[keys]`: making a key touches all.
struct Ring<'a> {
    writer: &'a Path,
    identities: &'a Path,
    signers: &'a Path,
}

impl<'a> Ring<'a> {
    fn of(config: &'a Config) -> Result<Self, Failure> {
        let place = |place: &'a Option<PathBuf>, name: &str| {
            place.as_deref().ok_or_else(|| {
                let cause = format!("{} does not say where", config.path.display());
                let next = "make keys where both halves may lie for the moment, or set it";
                Failure::new(Kind::Usage, format!("keys.{name}"), cause, next)
            })
        };
        let (writer, identities) =
            (place(&config.keys.writer, "writer")?, place(&config.keys.identities, "identities")?);
        Ok(Self { writer, identities, signers: &config.keys.signers })
    }

    /// Makes the first key of each scope; without a writer bundle a new one. A bundle that was lost is not replaced:
    /// its signers' file is still there, and nothing is overwritten.
    fn make(&self, scopes: &[Scope]) -> Result<Vec<Scope>, Failure> {
        let _alone = self.alone()?;
        let mut ceremony = match self.writer.exists() {
            true => Ceremony::for_bundle(WriterBundle::read(self.writer)?)?,
            false => Ceremony::new_estate(&[], 0)?,
        };
        scopes.iter().try_for_each(|scope| ceremony.add_scope(scope))?;
        ceremony.write(self.writer, self.identities, self.signers)?;
        Ok(scopes.to_vec())
    }

    /// Two at once would each write a bundle without the other's scope. Held until dropped, gone with the process.
    fn alone(&self) -> Result<std::fs::File, Failure> {
        let folder = self.writer.parent().unwrap_or(Path::new("/"));
        let failed = |error: std::io::Error| {
            let next = "check the path and who may write there";
            Failure::new(Kind::Usage, folder.display().to_string(), error.to_string(), next)
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let file = std::fs::File::open(folder).map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(file)
    }
}

fn list(config: &Config, context: &Context) -> Result<Report, Failure> {
    let writer = config.keys.writer.as_deref().filter(|path| path.exists());
    let bundle = writer.map(WriterBundle::read).transpose()?;
    let sealed: BTreeMap<Scope, u32> =
        bundle.iter().flat_map(|bundle| &bundle.scopes).map(|(scope, keys)| (scope.clone(), keys.epoch)).collect();
    let configured = config.scopes();
    if bundle.is_some() {
        for scope in configured.iter().filter(|scope| !sealed.contains_key(scope)) {
            let next = format!("run `lifeboat key new {scope}` where keys are made");
            watch::warn(&*context.watch, scope.to_string(), "has no key: nothing of it can be stored", next);
        }
    }
    let scopes: BTreeSet<&Scope> = configured.iter().chain(sealed.keys()).collect();
    let (mut table, mut listed) = (Table::new(&["scope", "epoch", "seals", "opens"]), Vec::new());
    for scope in scopes {
        let epoch = sealed.get(scope).copied();
        let here = config.keys.identities.as_deref().map(|folder| epochs(folder, scope)).unwrap_or_default();
        let opens = if here.is_empty() { Cell::from("") } else { Cell::toned(numbers(&here), Tone::Warning) };
        let (number, seals) = epoch.map_or(("".into(), ""), |epoch| (Cell::number(epoch), "yes"));
        table.row([scope.to_string().into(), number, seals.into(), opens]);
        listed.push(json!({
            "scope": scope, "epoch": epoch, "seals": epoch.is_some(), "opens": !here.is_empty(), "epochs_here": here,
        }));
    }
    let writer = bundle.map(|bundle| bundle.writer);
    let mut text = table.draw(context.page);
    if let Some(writer) = &writer {
        text += &format!("\nThis machine writes as {writer}.\n");
    }
    Ok(Report::new(json!({ "writer": writer, "scopes": listed }), text))
}

/// Which epochs of `scope` can be opened with what lies in `folder` (`<folder>/<scope>/<epoch>.age`); nothing is read.
fn epochs(folder: &Path, scope: &Scope) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(folder.join(scope.to_string())) else { return Vec::new() };
    let mut found: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".age")?.parse().ok()).collect();
    found.sort_unstable();
    found
}

fn numbers(numbers: &[u32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
