//! `lifeboat key shred`: a scope's keys destroyed wherever they are known to be; what was sealed to them nobody reads again.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::make::Ring;
use super::standing::of_erasures;
use super::{custody, list};
use crate::authority::copies;
use crate::authority::custody::generation;
use crate::authority::key_stores::{KeyStores, after};
use crate::authority::shred::{self, Shredder, Standing};
use crate::authority::upkeep;
use crate::cli::context::Context;
use crate::cli::open;
use crate::cli::outcome::Report;
use crate::cli::table::{Cell, Table};
use crate::config::{Config, Role};
use crate::failure::{Failure, Kind};
use crate::ids::Scope;
use crate::repo::erasure::{self, Confirmed, Erasure, Ledger};
use crate::repo::identities::{identity_path, read_identity, scope_identity_text};
use crate::repo::key::WriterBundle;
use crate::repo::sign::Signers;
use crate::store::Store;
use crate::watch;

/// Destroy every key of a scope: nobody reads anything of it again, wherever its sealed data still lies
///
/// The request is signed with the SSH key of `keys.eraser` and written into the erasure ledger, which every restore, backup and copy
/// obeys from then on. Key files go from both keys stores when their locks have lapsed (they are renewed no more); registered copies
/// when their holders confirm. Until all are gone the erasure is pending: exit code 3. Run it again to go on. There is no way back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lifeboat key shred tenant/acme --dry-run\n  \
    lifeboat key shred tenant/acme --yes tenant/acme\n  \
    lifeboat key shred tenant/acme --confirm safe --signature safe.sig\n  \
    lifeboat key shred tenant/acme --confirm usb --file /media/usb/acme.key     deletes it\n  \
    lifeboat key shred --pending                                                what locks allow by now")]
pub struct Shred {
    #[arg(value_name = "SCOPE", required_unless_present = "pending")]
    pub scope: Option<Scope>,
    /// Show what would be destroyed, by when, and what holders of copies are to sign; do nothing
    #[arg(long, conflicts_with_all = ["yes", "confirm", "pending"])]
    pub dry_run: bool,
    /// The scope's name once more, to begin
    #[arg(long, value_name = "SCOPE", conflicts_with_all = ["confirm", "pending"])]
    pub yes: Option<String>,
    /// Record that this registered copy is gone
    #[arg(long, value_name = "COPY")]
    pub confirm: Option<String>,
    /// Its holder's signature over the statement that --dry-run prints
    #[arg(long, value_name = "FILE", requires = "confirm", conflicts_with = "file")]
    pub signature: Option<PathBuf>,
    /// The copy itself, which is deleted
    #[arg(long, value_name = "FILE", requires = "confirm")]
    pub file: Option<PathBuf>,
    /// Go on with every erasure that is not complete, and remove key files that were left to lapse
    #[arg(long, conflicts_with_all = ["scope", "confirm"])]
    pub pending: bool,
}

/// What every form of the command works with.
struct Work<'a> {
    context: &'a Context,
    config: &'a Config,
    store: std::sync::Arc<dyn Store>,
    erasers: Signers,
    stores: KeyStores,
    now: Timestamp,
}

pub(super) async fn shred(args: &Shred, context: &Context) -> Result<Report, Failure> {
    let config = context.config()?;
    let store = open::store(context, &config, Role::KeyEraser).await?;
    let stores = match (config.keys.stores.is_empty(), args.yes.is_some()) {
        (true, _) => KeyStores::default(),
        // What is to be destroyed is written down once: a store that does not answer must not be left out of it.
        (false, true) => custody::needed(context, &config, Role::KeyEraser).await?,
        (false, false) => custody::answering(context, &config, Role::KeyEraser).await?,
    };
    let erasers = Signers::read_for(&config.keys.signers, erasure::NAMESPACE)?;
    let now = store.now().await?;
    let work = Work { context, config: &config, store, erasers, stores, now };
    match (&args.scope, &args.confirm) {
        (None, _) => work.pending().await,
        (Some(scope), _) if args.dry_run => work.plan(scope).await,
        (Some(scope), Some(copy)) => work.confirm(scope, copy, args).await,
        (Some(scope), None) if args.yes.as_deref() == Some(scope.to_string().as_str()) => work.begin(scope).await,
        (Some(scope), None) => {
            let cause = "its keys are destroyed for good only when its name is typed once more";
            let next = format!("look with --dry-run, then add --yes {scope}");
            Err(Failure::new(Kind::Refused, scope.to_string(), cause, next))
        }
    }
}

impl Work<'_> {
    fn shredder(&self) -> Result<Shredder<'_>, Failure> {
        let key = self.config.keys.eraser.as_deref().ok_or_else(|| {
            let next = "set it to the SSH key that signs erasures, and give its public half a line of the signers file";
            Failure::new(Kind::Usage, "keys.eraser", "an erasure must be signed by somebody who may", next)
        })?;
        let retention = &self.config.retention;
        // Longer than anything of the scope can be locked: while there is data, the ledger says that its key is gone.
        let longest = retention.classes.values().copied().max().unwrap_or(retention.pitr).max(retention.pitr);
        let locked_until = after(self.now, longest + retention.slack + self.config.keys.lock);
        let (erasers, stores, now) = (&self.erasers, &self.stores, self.now);
        Ok(Shredder { store: &*self.store, erasers, key, stores, now, locked_until })
    }

    /// The epochs that this machine knows of.
    fn known(&self, scope: &Scope) -> Result<BTreeSet<u32>, Failure> {
        let keys = &self.config.keys;
        let mut known: BTreeSet<u32> = self.here(scope).into_iter().collect();
        if let Some(path) = keys.writer.as_deref().filter(|path| path.exists()) {
            known.extend(WriterBundle::read(path)?.scopes.get(scope).map(|keys| keys.epoch));
        }
        Ok(known)
    }

    fn here(&self, scope: &Scope) -> Vec<u32> {
        self.config.keys.identities.as_deref().map(|folder| list::epochs(folder, scope)).unwrap_or_default()
    }

    async fn plan(&self, scope: &Scope) -> Result<Report, Failure> {
        let erasures = Ledger::read(&*self.store, &self.erasers).await?.erasures();
        let under_way = erasures.into_iter().rev().find(|erasure| erasure.scope == *scope && !erasure.complete());
        let begun = under_way.is_some();
        let copies = copies::of(&self.stores, scope).await?;
        let epochs = shred::epochs(&self.stores, scope, self.known(scope)?).await?;
        let erasure = under_way.unwrap_or_else(|| Erasure {
            id: "(its id)".to_owned(),
            scope: scope.clone(),
            epochs,
            requested: self.now,
            stores: self.stores.0.iter().map(|store| (store.name.clone(), false)).collect(),
            copies: copies.keys().map(|name| (name.clone(), false)).collect(),
            holders: copies.iter().map(|(name, copy)| (name.clone(), copy.key.clone())).collect(),
        });
        let mut table = Table::new(&["where", "what", "goes"]);
        let mut files = Vec::new();
        for store in &self.stores.0 {
            for (name, versions) in shred::files(store, &erasure).await? {
                let mut ends = None;
                for listed in &versions {
                    let lock = store.store.lock_state(&listed.name, &listed.version).await?;
                    ends = ends.max(lock.retained_until);
                }
                let goes = ends.map_or("at once".to_owned(), |ends| format!("after {ends}"));
                table.row([Cell::from(store.name.as_str()), name.to_string().into(), goes.into()]);
                files.push(json!({ "store": store.name, "name": name.to_string(), "locked_until": ends }));
            }
        }
        for epoch in self.here(scope) {
            table.row([Cell::from("this machine"), format!("identity, epoch {epoch}").into(), "at once".into()]);
        }
        let mut text = table.draw(self.context.page);
        let mut statements = serde_json::Map::new();
        for (name, _) in erasure.copies.iter().filter(|(_, gone)| !**gone) {
            let holder = copies.get(name).map(|copy| copy.holder.as_str()).unwrap_or_default();
            text += &format!("copy '{name}' ({holder}): when its holder confirms\n");
            if begun {
                let words = copies::statement(&erasure, name);
                text += &format!("  he signs with `ssh-keygen -Y sign -n {} -f KEY`:\n  {words}", copies::NAMESPACE);
                statements.insert(name.clone(), words.into());
            }
        }
        text += &format!(
            "\nEpochs {} of {scope} would open nowhere from the request on. Other scopes are not touched.\n",
            erasure.epochs.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        );
        let fields = json!({ "scope": scope, "dry_run": true, "epochs": erasure.epochs, "files": files,
            "here": self.here(scope), "copies": erasure.copies, "statements": statements });
        Ok(Report::new(fields, text))
    }

    /// Request, writer bundle, this machine's own files, keys stores: each step can be run again.
    async fn begin(&self, scope: &Scope) -> Result<Report, Failure> {
        let shredder = self.shredder()?;
        let erasure = shredder.request(scope, self.known(scope)?).await?;
        let last = erasure.epochs.iter().next_back().copied().unwrap_or(0);
        // A machine that makes no keys has no bundle, or not all that `[keys]` can name.
        let bundle = Ring::of(self.config).ok().map(|ring| ring.erase(scope, last)).transpose()?;
        if bundle != Some(true) {
            let next = "nothing more is sealed by machines that read the ledger; take it out of their bundles with `key shred` there";
            watch::warn(
                &*self.context.watch,
                scope.to_string(),
                "there is no writer bundle here to take its key from",
                next,
            );
        }
        self.delete_here(&erasure)?;
        let standings = shredder.advance(&erasure).await?;
        let mut report = self.report(scope, &standings).await?;
        report.text += "\nA stream that runs seals to the dead key until it is started again; nobody can read that.\n";
        Ok(report)
    }

    /// The identities that lie in this machine's folder: also those of an erasure that was taken up again.
    fn delete_here(&self, erasure: &Erasure) -> Result<(), Failure> {
        let Some(folder) = &self.config.keys.identities else { return Ok(()) };
        for epoch in erasure.epochs.iter().filter(|epoch| self.here(&erasure.scope).contains(epoch)) {
            delete(&identity_path(folder, &erasure.scope, *epoch))?;
        }
        Ok(())
    }

    async fn confirm(&self, scope: &Scope, copy: &str, args: &Shred) -> Result<Report, Failure> {
        let shredder = self.shredder()?;
        let none =
            || Failure::new(Kind::Usage, scope.to_string(), "no erasure of it is under way", "begin with --yes SCOPE");
        let erasure = shredder.find(scope).await?.ok_or_else(none)?;
        let confirmed = match (&args.signature, &args.file) {
            (Some(path), _) => {
                let signature = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
                Confirmed::Statement { text: copies::statement(&erasure, copy), signature }
            }
            (None, Some(path)) => {
                if erasure.copies.contains_key(copy) {
                    bury(path, &erasure)?;
                }
                let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
                Confirmed::Deleted { host }
            }
            (None, None) => {
                let next = "give --signature FILE, or --file FILE to have the copy itself deleted";
                return Err(Failure::new(Kind::Usage, copy, "nothing shows that it is gone", next));
            }
        };
        shredder.confirm(&erasure, copy, confirmed).await?;
        if let Some(path) = &args.file {
            delete(path)?;
        }
        self.report(scope, &[]).await
    }

    async fn pending(&self) -> Result<Report, Failure> {
        let shredder = self.shredder()?;
        let ledger = open::ledger(self.context, self.config, &*self.store).await?;
        let mut standings = Vec::new();
        for erasure in ledger.erasures().iter().filter(|erasure| !erasure.complete()) {
            let each = shredder.advance(erasure).await?;
            standings.push(json!({ "scope": erasure.scope, "stores": each }));
        }
        let current = match self.stores.both() {
            Ok(_) => generation::current(&self.stores, None).await.ok().flatten(),
            Err(_) => None,
        };
        let removed = upkeep::tidy(&self.stores, &custody::keep(self.config, &ledger, current.as_ref())).await?;
        let erasures = Ledger::read(&*self.store, &self.erasers).await?.erasures();
        let mut report = Report::new(json!({ "pending": standings, "removed": removed }), told(&erasures));
        report.findings = of_erasures(&erasures);
        Ok(report)
    }

    async fn report(&self, scope: &Scope, standings: &[Standing]) -> Result<Report, Failure> {
        let mut erasures = Ledger::read(&*self.store, &self.erasers).await?.erasures();
        erasures.retain(|erasure| erasure.scope == *scope);
        let complete = erasures.iter().all(Erasure::complete);
        let fields: Value = json!({ "scope": scope, "complete": complete, "erasures": erasures, "stores": standings });
        let mut text = told(&erasures);
        for standing in standings.iter().filter(|standing| !standing.gone) {
            let why = match (&standing.trouble, standing.locked_until) {
                (Some(trouble), _) => trouble.clone(),
                (None, Some(ends)) => format!("{} key files are locked until {ends}", standing.left),
                (None, None) => format!("{} key files are left", standing.left),
            };
            text += &format!("  keys store {}: {why}\n", standing.store);
        }
        let mut report = Report::new(fields, text);
        report.findings = of_erasures(&erasures);
        Ok(report)
    }
}

fn told(erasures: &[Erasure]) -> String {
    let each = erasures.iter().map(|erasure| match erasure.pending() {
        pending if pending.is_empty() => format!("{}: erased, complete\n", erasure.scope),
        pending => format!("{}: erased, still there: {}\n", erasure.scope, pending.join(", ")),
    });
    let text: String = each.collect();
    if text.is_empty() { "nothing was erased\n".to_owned() } else { text }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Usage, path.display().to_string(), error.to_string(), "check the path and who may write there")
}

/// Puts a line in the place of a key, when it is the key that was to go. The line is found again when this ended before the ledger knew.
fn bury(path: &Path, erasure: &Erasure) -> Result<(), Failure> {
    let failed = |error: std::io::Error| unreadable(path, &error);
    let line = format!("lifeboat: here was a key of {}, destroyed for the erasure {}\n", erasure.scope, erasure.id);
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
    if *text == line {
        return Ok(());
    }
    let identity = read_identity(path)?;
    let is = |epoch: &u32| *text == *scope_identity_text(&erasure.scope, *epoch, &identity);
    if !erasure.epochs.iter().any(is) {
        let cause = format!("is no identity of {} as lifeboat writes it", erasure.scope);
        let next = "delete it yourself, and have its holder sign for it";
        return Err(Failure::new(Kind::Usage, path.display().to_string(), cause, next));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut stone = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    stone.write_all(line.as_bytes()).and_then(|()| stone.as_file().sync_all()).map_err(failed)?;
    stone.persist(path).map_err(|error| failed(error.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// Removes a file, durably. Its bytes may live on under the file system: that is said in THREATS.
fn delete(path: &Path) -> Result<(), Failure> {
    std::fs::remove_file(path).map_err(|error| unreadable(path, &error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| unreadable(folder, &error))
}
