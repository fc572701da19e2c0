//! Two keys stores in folders, four custodians, a clock that is set: for this module's tests.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use jiff::SignedDuration;

use super::custody::Rule;
use super::custody::generation::{self, Generation};
use super::deposit::{Seals, deposit};
use super::key_stores::{KeyStore, KeyStores};
use super::opening::{Custody, Holders};
use crate::clock::Clock;
use crate::ids::Scope;
use crate::store::Store;
use crate::store::failing::{Failing, Fault};
use crate::store::local::LocalStore;

pub const LOCK: SignedDuration = SignedDuration::from_hours(24 * 30);

pub fn acme() -> Scope {
    Scope::Tenant("acme".into())
}

pub fn globex() -> Scope {
    Scope::Tenant("globex".into())
}

pub struct Estate {
    pub folder: tempfile::TempDir,
    pub clock: Clock,
    pub people: BTreeMap<String, Identity>,
}

impl Estate {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one", "two", "data"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let people = ["alice", "bob", "carol", "dave"].map(|name| (name.to_owned(), Identity::generate()));
        let clock = Clock::set_to("2026-11-22T07:24:00Z".parse().unwrap());
        Self { folder, clock, people: people.into() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn local(&self, name: &str) -> Arc<dyn Store> {
        Arc::new(LocalStore::open(&self.path(name), self.clock.clone()).unwrap())
    }

    pub fn stores(&self) -> KeyStores {
        KeyStores(["one", "two"].map(|name| KeyStore { name: name.into(), store: self.local(name) }).into())
    }

    pub fn only(&self, name: &str) -> KeyStores {
        KeyStores(vec![KeyStore { name: name.into(), store: self.local(name) }])
    }

    /// Both, of which the one named has `faults`.
    pub fn failing(&self, failing: &str, faults: &[Fault]) -> (KeyStores, Arc<Failing>) {
        let broken = Arc::new(Failing::new(self.local(failing), faults.to_vec()));
        let stores = ["one", "two"].map(|name| {
            let store: Arc<dyn Store> = if name == failing { broken.clone() } else { self.local(name) };
            KeyStore { name: name.into(), store }
        });
        (KeyStores(stores.into()), broken)
    }

    pub fn rule(&self, groups: &[&[&str]]) -> Rule {
        let allowed: BTreeSet<Vec<String>> =
            groups.iter().map(|group| group.iter().map(|name| (*name).to_owned()).collect()).collect();
        let named: BTreeSet<&String> = allowed.iter().flatten().collect();
        let custodians = named.into_iter().map(|name| (name.clone(), self.people[name].to_public())).collect();
        Rule { custodians, allowed }
    }

    pub async fn split(&self, rule: &Rule) -> Generation {
        generation::make(&self.stores(), rule, None, LOCK, self.clock.now()).await.unwrap()
    }

    pub fn holders(&self, names: &[&str]) -> Holders {
        Holders::Custodians(names.iter().map(|name| self.people[*name].clone()).collect())
    }

    pub async fn open(&self, names: &[&str]) -> Result<Custody, super::custody::CustodyError> {
        Custody::open(&self.stores(), self.holders(names)).await
    }

    /// Makes a key for the scope's epoch and deposits it.
    pub async fn key(&self, custody: &Generation, scope: &Scope, epoch: u32) -> Identity {
        let key = Identity::generate();
        let seals = Seals { custody: custody.recipient.clone(), drill: None };
        let keys = BTreeMap::from([((scope.clone(), epoch), key.clone())]);
        deposit(&self.stores(), &seals, &keys, LOCK).await.unwrap();
        key
    }

    /// A person's identity as the file that age takes.
    pub fn key_file(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.key"));
        std::fs::write(&path, self.people[name].to_string().expose_secret()).unwrap();
        path
    }
}
