//! `lifeboat key new`, `key rotate`, and the keys that `init` makes: the next epoch of a scope, in the keys stores before anything is sealed to it.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde_json::json;

use super::{custody, known};
use crate::authority::deposit::deposit;
use crate::cli::context::Context;
use crate::cli::outcome::Report;
use crate::config::{Config, Role};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::ceremony::Ceremony;
use crate::repo::key::{KeyError, WriterBundle};

/// Make the first key of a scope: a tenant or cluster that was added to the configuration
///
/// The writer bundle gets the half that seals. The half that opens goes into both keys stores, sealed to the custody key; where the
/// configuration has no keys stores, into the folder of identities. Nothing is overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key new tenant/globex\n  \
    lifeboat key new cluster/second residue/second quarantine/second")]
pub struct New {
    /// tenant/ID, cluster/NAME, residue/NAME, quarantine/NAME, estate or spare/N
    #[arg(value_name = "SCOPE", required = true)]
    pub scopes: Vec<Scope>,
}

/// Make the next key of a scope; what was sealed to the earlier ones stays readable with them
///
/// From the next run on, everything of the scope is sealed to the new key, and its next backup is a full one. A stream that runs goes
/// on with the old key until it is started again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key rotate tenant/acme           after somebody who could open it has left")]
pub struct Rotate {
    /// The scopes, as `lifeboat key list` shows them
    #[arg(value_name = "SCOPE", required = true)]
    pub scopes: Vec<Scope>,
}

pub(super) async fn new(args: &New, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    args.scopes.iter().try_for_each(|scope| known(&config, scope))?;
    let made = Ring::of(&config)?.make(context, &args.scopes, Which::First).await?;
    let lines: String = made.iter().map(|(scope, _)| format!("made the key of {scope}\n")).collect();
    let scopes: Vec<Scope> = made.into_iter().map(|(scope, _)| scope).collect();
    Ok(Report::new(json!({ "made": scopes }), lines))
}

pub(super) async fn rotate(args: &Rotate, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let made = Ring::of(&config)?.make(context, &args.scopes, Which::Next).await?;
    let mut text: String =
        made.iter().map(|(scope, epoch)| format!("{scope} is sealed to epoch {epoch} from now on\n")).collect();
    text += "\nTheir next backups are full ones. Start `lifeboat stream` again: one that runs still seals to the old key.\n";
    let made: Vec<_> = made.iter().map(|(scope, epoch)| json!({ "scope": scope, "epoch": epoch })).collect();
    Ok(Report::new(json!({ "rotated": made }), text))
}

/// Makes what `init` needs: a key for every scope of `config` that has none, and for a new writer `spares` more.
/// Returns the scopes that got one.
///
/// # Errors
/// When the configuration does not say where keys go, or a file or a keys store cannot be read or written.
pub(in crate::cli) async fn make_missing(
    context: &Context,
    config: &Config,
    spares: u32,
) -> Result<Vec<Scope>, Failure> {
    let ring = Ring::of(config)?;
    let mut scopes = config.scopes();
    if ring.writer.exists() {
        let bundle = WriterBundle::read(ring.writer)?;
        // What was erased is begun anew by `key new` only, by somebody who means it.
        scopes.retain(|scope| !bundle.scopes.contains_key(scope) && !bundle.erased.contains_key(scope));
    } else {
        scopes.extend((1..=spares).map(Scope::Spare));
    }
    if scopes.is_empty() {
        return Ok(scopes);
    }
    Ok(ring.make(context, &scopes, Which::First).await?.into_iter().map(|(scope, _)| scope).collect())
}

/// The places of `[keys]`: making a key touches all.
pub(super) struct Ring<'a> {
    config: &'a Config,
    writer: &'a Path,
    /// Needed where there are no keys stores.
    identities: Option<&'a Path>,
    signers: &'a Path,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    First,
    Next,
}

impl<'a> Ring<'a> {
    pub(super) fn of(config: &'a Config) -> Result<Self, Failure> {
        let place = |place: &'a Option<PathBuf>, name: &str| {
            place.as_deref().ok_or_else(|| {
                let cause = format!("{} does not say where", config.path.display());
                let next = "make keys where both halves may lie for the moment, or set it";
                Failure::new(Kind::Usage, format!("keys.{name}"), cause, next)
            })
        };
        let writer = place(&config.keys.writer, "writer")?;
        let identities = match config.keys.stores.is_empty() {
            true => Some(place(&config.keys.identities, "identities")?),
            false => None,
        };
        Ok(Self { config, writer, identities, signers: &config.keys.signers })
    }

    /// Makes a key of each scope; without a writer bundle a new one. A bundle that was lost is not replaced: its signers' file is
    /// still there, and nothing is overwritten.
    ///
    /// The bundle is written last: it never seals to a key that is not where it belongs, in both keys stores.
    async fn make(&self, context: &Context, scopes: &[Scope], which: Which) -> Result<Vec<(Scope, u32)>, Failure> {
        let _alone = self.alone()?;
        let mut ceremony = match self.writer.exists() {
            true => Ceremony::for_bundle(WriterBundle::read(self.writer)?)?,
            false => Ceremony::new_estate(&[], 0)?,
        };
        for scope in scopes {
            match (ceremony.bundle.scopes.contains_key(scope), which) {
                (true, Which::First) => return Err(KeyError::Twice { scope: scope.clone() }.into()),
                (false, Which::Next) => return Err(KeyError::Unknown { scope: scope.clone() }.into()),
                _ => {}
            }
        }
        let stores = custody::stores(context, self.config, Role::Writer).await?;
        for scope in scopes {
            let had = ceremony.bundle.scopes.get(scope).map(|keys| keys.epoch);
            let last = had.max(ceremony.bundle.erased.get(scope).copied()).unwrap_or(0);
            let free = match &stores {
                Some(stores) => stores.next_epoch(scope, last).await?,
                None => last + 1,
            };
            ceremony.add_epoch(scope, free)?;
        }
        match &stores {
            Some(stores) => {
                let generation = custody::ensured(context, self.config, stores).await?;
                let seals = custody::seals(self.config, &generation)?;
                deposit(stores, &seals, &ceremony.identities, self.config.keys.lock).await?;
                ceremony.write_bundle(self.writer, self.signers)?;
            }
            None => ceremony.write(self.writer, self.identities.unwrap_or(Path::new("")), self.signers)?,
        }
        Ok(ceremony.identities.keys().cloned().collect())
    }

    /// Takes the keys of a scope up to `epoch` out of the bundle, so that nothing more is sealed to them. False where there is no bundle here.
    pub(super) fn erase(&self, scope: &Scope, epoch: u32) -> Result<bool, Failure> {
        if !self.writer.exists() {
            return Ok(false);
        }
        let _alone = self.alone()?;
        let mut bundle = WriterBundle::read(self.writer)?;
        if !bundle.erase(scope, epoch) {
            return Ok(true);
        }
        Ceremony::for_bundle(bundle)?.write_bundle(self.writer, self.signers)?;
        Ok(true)
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
