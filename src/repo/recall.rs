//! Envelopes that were read before: who remembers their bytes need not read them again.
//!
//! What is remembered is never believed for being remembered. It stands for a read only where the store lists the very same versions of
//! envelope and signature now (name, version, size, time of creation), and its signature is checked again against today's signers.
//! A memory that is wrong, old or hostile costs reads and nothing else; one that fails is as good as none.
//!
//! A restore and a verification do not use it: they are to see what the store holds.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::fetch::Candidates;
pub use super::fetch::{ReadEnvelope, ReadVersion};
use super::sign::Signers;
use crate::store::Listed;

/// Somebody who remembers. The implementation's failures are its own matter: it then remembers nothing.
#[async_trait]
pub trait Recall: Send + Sync + std::fmt::Debug {
    /// What is remembered below `prefix`: each envelope with its signature.
    async fn recall(&self, prefix: &str) -> Vec<(ReadVersion, ReadVersion)>;

    /// Envelopes that were read now, and the names of those that are no longer there or no longer believed.
    async fn settle(&self, came: &[ReadEnvelope], gone: &[String]);
}

/// One listing's dealings with whoever remembers.
pub(super) struct Memory<'a> {
    recall: Option<&'a dyn Recall>,
    known: BTreeMap<String, (ReadVersion, ReadVersion)>,
    /// Of those known, the ones that the store has as they were.
    stays: Vec<String>,
    came: Vec<ReadEnvelope>,
}

impl<'a> Memory<'a> {
    pub async fn of(recall: Option<&'a dyn Recall>, prefix: &str) -> Self {
        let known = match recall {
            Some(recall) => recall.recall(prefix).await,
            None => Vec::new(),
        };
        let known =
            known.into_iter().map(|(envelope, signature)| (envelope.listed.name.clone(), (envelope, signature)));
        Self { recall, known: known.collect(), stays: Vec::new(), came: Vec::new() }
    }

    /// The envelope at `name`, when it is remembered and the store still has it so.
    pub fn believed(&self, signers: &Signers, name: &str, candidates: &Candidates) -> Option<ReadEnvelope> {
        let (envelope, signature) = self.known.get(name)?;
        // The oldest version that is believed counts, so nothing may lie before it.
        let oldest = candidates.envelopes.first().filter(|listed| same(listed, &envelope.listed))?;
        let signed = candidates.signatures.iter().find(|listed| same(listed, &signature.listed))?;
        let now =
            |listed: &Listed, read: &ReadVersion| ReadVersion { listed: listed.clone(), bytes: read.bytes.clone() };
        ReadEnvelope::believe(signers, name, now(oldest, envelope), now(signed, signature)).ok()
    }

    /// An envelope that is believed, from memory or from the store.
    pub fn keep(&mut self, read: ReadEnvelope, remembered: bool) {
        if self.recall.is_none() {
            return;
        }
        if remembered {
            self.stays.push(read.verified.name.clone());
        } else {
            self.came.push(read);
        }
    }

    /// Tells whoever remembers what has changed.
    pub async fn settle(mut self) {
        let Some(recall) = self.recall else { return };
        for name in &self.stays {
            self.known.remove(name);
        }
        for read in &self.came {
            self.known.remove(&read.verified.name);
        }
        let gone: Vec<String> = self.known.into_keys().collect();
        recall.settle(&self.came, &gone).await;
    }
}

/// One and the same version: which of them is on top does not matter.
fn same(one: &Listed, other: &Listed) -> bool {
    (&one.name, &one.version, one.bytes, one.created) == (&other.name, &other.version, other.bytes, other.created)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::ids::{Digest, SystemId};
    use crate::repo::reader::{Listing, Reader, What};
    use crate::repo::sign::Signers;
    use crate::repo::testing::{Estate, acme, noise};
    use crate::store::counting::{Counting, Op};
    use crate::store::memory::MemoryStore;

    #[derive(Debug, Default)]
    struct Head(Mutex<BTreeMap<String, (ReadVersion, ReadVersion)>>);

    #[async_trait]
    impl Recall for Head {
        async fn recall(&self, prefix: &str) -> Vec<(ReadVersion, ReadVersion)> {
            let head = self.0.lock().unwrap();
            head.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, known)| known.clone()).collect()
        }
        async fn settle(&self, came: &[ReadEnvelope], gone: &[String]) {
            let mut head = self.0.lock().unwrap();
            head.retain(|name, _| !gone.contains(name));
            let known = |read: &ReadEnvelope| (read.envelope.clone(), read.signature.clone());
            head.extend(came.iter().map(|read| (read.verified.name.clone(), known(read))));
        }
    }

    struct Ground {
        estate: Estate,
        store: Arc<MemoryStore>,
        head: Arc<Head>,
    }

    impl Ground {
        async fn new() -> Self {
            let estate = Estate::new();
            let store = Arc::new(MemoryStore::not_create_only(estate.clock.clone()));
            let ground = Self { estate, store, head: Arc::default() };
            for seed in 0..3 {
                ground.set(seed).await;
            }
            ground
        }
        async fn set(&self, seed: u64) {
            self.estate.clock.advance(jiff::SignedDuration::from_secs(60));
            let writer = self.estate.writer_to(self.store.clone());
            let set = writer.begin_set(self.estate.new_set(acme()), &crate::watch::Quiet::default()).await.unwrap();
            let files = [("f", noise(seed, 1000))];
            crate::repo::testing::fill(set, &files).await.finish(serde_json::Value::Null).await.unwrap();
        }
        /// The listing of acme's sets, and how many objects were read for it.
        async fn list(&self) -> (Listing, usize) {
            let counting = Arc::new(Counting::new(self.store.clone()));
            let reader = self.estate.reader_of(counting.clone(), None).with_recall(self.head.clone());
            let listing = reader.envelopes(&acme(), What::Sets).await.unwrap();
            (listing, counting.calls().iter().filter(|call| call.op == Op::Get).count())
        }
    }

    fn digests(listing: &Listing) -> Vec<Digest> {
        listing.good.iter().map(|envelope| envelope.digest).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_read_once_is_not_read_again_and_what_is_new_is() {
        let ground = Ground::new().await;
        let (first, reads) = ground.list().await;
        assert_eq!((first.good.len(), reads), (3, 6));
        let (second, reads) = ground.list().await;
        assert_eq!((second.good, reads), (first.good, 0));
        ground.set(9).await;
        let (third, reads) = ground.list().await;
        assert_eq!((third.good.len(), reads), (4, 2));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_store_no_longer_has_is_not_believed_for_being_remembered() {
        let ground = Ground::new().await;
        let (all, _) = ground.list().await;
        let snapshot = ground.store.snapshot();
        for (at, ending) in [(0, ""), (1, ".sig")] {
            let name = format!("{}{ending}", all.good[at].name);
            let version = ground.store.listed(&name).remove(0).version;
            ground.store.drop_version(&name, &version);
            let (listing, _) = ground.list().await;
            assert!(!digests(&listing).contains(&all.good[at].digest), "{name}");
            assert_eq!(ground.head.0.lock().unwrap().len(), 2, "and it is forgotten");
            ground.store.roll_back(&snapshot);
            assert_eq!(digests(&ground.list().await.0), digests(&all));
        }
        // An older version that is put under it, or the same name anew, is another version: it is read.
        ground.store.overwrite(&all.good[2].name, noise(1, 50), ground.estate.until(9));
        assert_eq!(digests(&ground.list().await.0), digests(&all));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_memory_that_is_wrong_costs_reads_and_nothing_else() {
        let ground = Ground::new().await;
        let (all, _) = ground.list().await;
        let names: Vec<String> = all.good.iter().map(|envelope| envelope.name.clone()).collect();
        {
            let mut head = ground.head.0.lock().unwrap();
            let other = head[&names[1]].clone();
            // Altered bytes; another envelope's bytes; a wrong size.
            let mut flipped = head[&names[0]].0.bytes.to_vec();
            flipped[40] ^= 1;
            head.get_mut(&names[0]).unwrap().0.bytes = flipped.into();
            head.get_mut(&names[2]).unwrap().0.bytes = other.0.bytes;
            head.get_mut(&names[1]).unwrap().0.listed.bytes += 1;
        }
        let (again, reads) = ground.list().await;
        assert_eq!((again.good, reads), (all.good, 6));
        assert_eq!(ground.list().await.1, 0, "and it is corrected");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_signer_who_is_not_believed_any_more_is_not_believed_from_memory() {
        let ground = Ground::new().await;
        ground.list().await;
        let nobody = Arc::new(Signers::parse("", std::path::Path::new("signers")).unwrap());
        let reader = ground.estate.reader_of(ground.store.clone(), None);
        let reader = Reader { signers: nobody, ..reader }.with_recall(ground.head.clone());
        let listing = reader.envelopes(&acme(), What::Sets).await.unwrap();
        assert_eq!((listing.good.len(), listing.bad.len()), (0, 3));
        assert!(reader.stretches(SystemId(7), None).await.unwrap().good.is_empty());
    }
}
