//! What is damaged, and how.

use lifeboat::store::memory::MemoryStore;

use super::ground::Ground;

/// How an object is damaged. What ends with "on top" leaves the version that was written below; the others leave nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Removed,
    Hidden,
    Cut,
    Flipped,
    Swapped,
    Replayed,
    CutOnTop,
    FlippedOnTop,
    SwappedOnTop,
    ReplayedOnTop,
}

pub const WAYS: [Way; 10] = [
    Way::Removed,
    Way::Hidden,
    Way::Cut,
    Way::Flipped,
    Way::Swapped,
    Way::Replayed,
    Way::CutOnTop,
    Way::FlippedOnTop,
    Way::SwappedOnTop,
    Way::ReplayedOnTop,
];

impl Way {
    /// Whether the version that was written is still there.
    pub fn spares_it(self) -> bool {
        matches!(self, Self::Hidden | Self::CutOnTop | Self::FlippedOnTop | Self::SwappedOnTop | Self::ReplayedOnTop)
    }

    pub fn said(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Hidden => "delete marker",
            Self::Cut => "cut",
            Self::Flipped => "bit flipped",
            Self::Swapped => "swapped",
            Self::Replayed => "older replayed",
            Self::CutOnTop => "cut, on top",
            Self::FlippedOnTop => "bit flipped, on top",
            Self::SwappedOnTop => "swapped, on top",
            Self::ReplayedOnTop => "older, on top",
        }
    }
}

/// An object of each kind, with another's of the same kind and an older one of its own, where there are such.
pub struct Victim {
    pub kind: &'static str,
    pub name: String,
    pub other: String,
    pub older: String,
}

impl Victim {
    pub fn damage(&self, store: &MemoryStore, way: Way) {
        let listed = store.listed(&self.name).into_iter().find(|listed| listed.name == self.name).unwrap();
        let content = |name: &str| bytes(store, name);
        let own = content(&self.name);
        let altered = match way {
            Way::Removed => return assert!(store.drop_version(&self.name, &listed.version)),
            Way::Hidden => return store.mark_deleted(&self.name),
            // Of a signature the last byte is a line's end, which means nothing.
            Way::Cut | Way::CutOnTop if self.name.ends_with(".sig") => own[..own.len() / 2].to_vec(),
            Way::Cut | Way::CutOnTop => own[..own.len() - 1].to_vec(),
            Way::Flipped | Way::FlippedOnTop => {
                let mut flipped = own.clone();
                flipped[own.len() / 2] ^= 0x10;
                flipped
            }
            Way::Swapped | Way::SwappedOnTop => content(&self.other),
            Way::Replayed | Way::ReplayedOnTop => content(&self.older),
        };
        assert_ne!(altered, own, "{}: nothing is damaged", self.kind);
        if way.spares_it() {
            let far = listed.created + super::ground::DAY * 3650;
            store.overwrite(&self.name, altered, far);
        } else {
            store.alter(&self.name, &listed.version, |bytes| *bytes = altered);
        }
    }
}

fn bytes(store: &MemoryStore, name: &str) -> Vec<u8> {
    use lifeboat::store::Store as _;
    let read = futures::executor::block_on(store.get(name, None, None));
    read.unwrap_or_else(|error| panic!("{error}")).to_vec()
}

/// One object of every kind that the ground has, of acme's newest point where there is a choice.
pub fn victims(ground: &Ground) -> Vec<Victim> {
    let names = ground.store.names();
    let find = |prefix: &str, ending: &str| -> Vec<String> {
        names.iter().filter(|name| name.starts_with(prefix) && name.ends_with(ending)).cloned().collect()
    };
    let mut victims = Vec::new();
    let mut add = |kind, own: Vec<String>, others: Vec<String>| {
        let name = own.last().unwrap_or_else(|| panic!("no {kind}")).clone();
        // What has no predecessor is replaced by something else of the store.
        let other = others.last().cloned().filter(|other| *other != name);
        let other = other.unwrap_or_else(|| names.iter().find(|other| **other != name).unwrap().clone());
        let older = own.iter().rev().nth(1).cloned().unwrap_or_else(|| other.clone());
        victims.push(Victim { kind, name, other, older });
    };
    for (kind, scope, source) in [
        ("pack of the cluster", "cluster/main", "base-main"),
        ("pack of the database", "tenant/acme", "base-main"),
        ("pack of the filestore", "tenant/acme", "filestore-acme"),
    ] {
        let packs = packs_of(ground, &find(&format!("{scope}/sets/{source}/"), ".envelope.json"));
        add(kind, packs, find("tenant/globex/packs/", ".age"));
    }
    for (kind, ending) in [
        ("set body", ".body.jsonl.zst.age"),
        ("chunk map", ".chunks.age"),
        ("set envelope", ".envelope.json"),
        ("set signature", ".envelope.json.sig"),
    ] {
        add(kind, find("tenant/acme/sets/base-main/", ending), find("tenant/globex/sets/base-main/", ending));
    }
    for (kind, ending) in [
        ("point body", ".body.json.zst.age"),
        ("point envelope", ".envelope.json"),
        ("point signature", ".envelope.json.sig"),
    ] {
        add(kind, find("tenant/acme/points/", ending), find("tenant/globex/points/", ending));
    }
    let stretches = |tail: bool, ending: &str| -> Vec<String> {
        find("wal/", ending).into_iter().filter(|name| name.contains("/tail/") == tail).collect()
    };
    add("span", spans_of(ground), find("tenant/globex/packs/", ".age"));
    for (kind, ending) in
        [("bundle", ".bundle.tar"), ("stretch envelope", ".envelope.json"), ("stretch signature", ".envelope.json.sig")]
    {
        let own = stretches(false, ending);
        add(kind, own, stretches(true, ending));
    }
    // The second one is behind the base backup's stretch, and has a tail that says the same.
    let twin = ground.stretches.iter().find(|stretch| stretch.name.contains("/tail/")).unwrap();
    let covered = |ending: &str| {
        let name = twin.name.replace("/tail/", "/").replace(".envelope.json", ending);
        vec![name]
    };
    add("stretch envelope with a tail", covered(".envelope.json"), stretches(true, ".envelope.json"));
    add("tail bundle beside a stretch", vec![twin.name.replace(".envelope.json", ".bundle.tar")], Vec::new());
    add("tail envelope beside a stretch", vec![twin.name.clone()], Vec::new());
    for (kind, ending) in [
        ("last tail's bundle", ".bundle.tar"),
        ("last tail's envelope", ".envelope.json"),
        ("last tail's signature", ".envelope.json.sig"),
    ] {
        let own = stretches(true, ending);
        add(kind, own, stretches(false, ending));
    }
    let mut tails = stretches(true, ".envelope.json");
    tails.pop();
    add("last but one tail's envelope", tails, stretches(false, ".envelope.json"));
    victims
}

/// The packs that the newest of these envelopes names.
fn packs_of(ground: &Ground, envelopes: &[String]) -> Vec<String> {
    named_in(ground, envelopes.last().unwrap()).into_iter().filter(|name| name.contains("/packs/")).collect()
}

/// acme's shares of stretches (not of tails) that are objects of their own.
fn spans_of(ground: &Ground) -> Vec<String> {
    let stretches = ground.stretches.iter().filter(|stretch| !stretch.name.contains("/tail/"));
    let named = stretches.flat_map(|stretch| named_in(ground, &stretch.name));
    named.filter(|name| name.contains(".span.")).collect()
}

fn named_in(ground: &Ground, envelope: &str) -> Vec<String> {
    let envelope: serde_json::Value = serde_json::from_slice(&bytes(&ground.store, envelope)).unwrap();
    let named = envelope["objects"].as_array().unwrap().iter();
    named.filter_map(|object| object["name"].as_str()).map(str::to_owned).collect()
}
