//! Every object's name, made and parsed in one place.
//!
//! ```text
//! <scope>/{README.txt, lay-wal.sh, recover-set.sh}, or with -<sha8> before the dot
//! <scope>/packs/<hh>/<sha256>.tar.zst.age
//! <scope>/sets/<source>/<time>-<rand>.{body.jsonl.zst.age, chunks.age, envelope.json, envelope.json.sig}
//! <scope>/points/<time>-<rand>.{body.json.zst.age, envelope.json, envelope.json.sig}
//! <scope>/holds/<time>-<rand>.hold.json
//! <scope>/wal/<system-id>/<history>/<from>-<to>-<sha256>.span.zst.age
//! wal/<system-id>/<history>/[tail/]<from>-<to>[-<rand>].{bundle.tar, envelope.json, envelope.json.sig}
//! canary/<time>-<rand>/<attack>
//! ```
//!
//! `<time>` is `20261122T072400Z`, `<rand>` 8 hex digits, an LSN 16 hex digits: names sort as what they name does.
//! A stretch's name gets a `<rand>` only when an attempt died half-way and left its plain name taken.
//! Parsing is strict: what this module would not have written is not a name.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::ids::{Digest, Lsn, Scope, SystemId, Timeline, is_plain_name};

/// A text that is not an object's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not the name of an object of this format")]
pub struct NameError {
    pub text: String,
}

/// When something was begun, with 32 random bits so that two writers do not meet: `20261122T072400Z-1a2b3c4d`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(String);

impl Stamp {
    /// A new stamp for something begun at `now`.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(now: Timestamp) -> Result<Self, getrandom::Error> {
        Ok(Self(format!("{}-{}", now.strftime("%Y%m%dT%H%M%SZ"), random_hex()?)))
    }

    /// The time in it; `None` where the digits are none.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        let (time, _) = self.0.split_once('-')?;
        let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
        Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    }

    /// Reads what [`Stamp`] prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (time, rand) = text.split_once('-')?;
        let digits = |part: &str, n| part.len() == n && part.bytes().all(|b| b.is_ascii_digit());
        let (day, clock) = time.strip_suffix('Z')?.split_once('T')?;
        (digits(day, 8) && digits(clock, 6) && is_rand(rand)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 8 random hex digits.
///
/// # Errors
/// When the system gives no random bytes.
pub fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

fn is_rand(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The history part of a WAL name: the timeline with a hash of its history file (empty for timeline 1). Two promotions can both
/// make a timeline 2; their history files differ.
#[must_use]
pub fn history(timeline: Timeline, history_file: &[u8]) -> String {
    format!("{:08X}-{}", timeline.0, &Digest::of(history_file).to_string()[..16])
}

fn is_history(text: &str) -> bool {
    let hex = |part: &str, n| part.len() == n && part.bytes().all(|b| b.is_ascii_hexdigit());
    text.split_once('-').is_some_and(|(timeline, digest)| hex(timeline, 8) && hex(digest, 16))
}

/// The name of a pack: its content decides it.
#[must_use]
pub fn pack(scope: &Scope, digest: Digest) -> String {
    let digest = digest.to_string();
    format!("{scope}/packs/{}/{digest}.tar.zst.age", &digest[..2])
}

/// The name of the signature that belongs to an envelope.
#[must_use]
pub fn signature(envelope: &str) -> String {
    format!("{envelope}.sig")
}

/// One capture of one source for one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetName {
    pub scope: Scope,
    pub source: String,
    pub stamp: Stamp,
}

impl SetName {
    /// The prefix that all sets of `source` (or of every source) in `scope` share.
    #[must_use]
    pub fn prefix(scope: &Scope, source: Option<&str>) -> String {
        source.map_or_else(|| format!("{scope}/sets/"), |source| format!("{scope}/sets/{source}/"))
    }
    #[must_use]
    pub fn part(&self, part: SetPart) -> String {
        format!("{}{}{}", Self::prefix(&self.scope, Some(&self.source)), self.stamp, part.suffix())
    }
}

/// The objects of a set, beside its packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetPart {
    Body,
    Chunks,
    Envelope,
    Signature,
}

impl SetPart {
    fn suffix(self) -> &'static str {
        match self {
            Self::Body => ".body.jsonl.zst.age",
            Self::Chunks => ".chunks.age",
            Self::Envelope => ".envelope.json",
            Self::Signature => ".envelope.json.sig",
        }
    }
}

/// A recovery point of one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointName {
    pub scope: Scope,
    pub stamp: Stamp,
}

impl PointName {
    #[must_use]
    pub fn prefix(scope: &Scope) -> String {
        format!("{scope}/points/")
    }
    #[must_use]
    pub fn part(&self, part: PointPart) -> String {
        format!("{}{}{}", Self::prefix(&self.scope), self.stamp, part.suffix())
    }
}

/// The objects of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointPart {
    Body,
    Envelope,
    Signature,
}

impl PointPart {
    fn suffix(self) -> &'static str {
        match self {
            Self::Body => ".body.json.zst.age",
            Self::Envelope => ".envelope.json",
            Self::Signature => ".envelope.json.sig",
        }
    }
}

/// The marker of a hold on a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldName {
    pub scope: Scope,
    pub stamp: Stamp,
}

impl HoldName {
    /// The prefix that all markers of a scope share.
    #[must_use]
    pub fn prefix(scope: &Scope) -> String {
        format!("{scope}/holds/")
    }
}

impl fmt::Display for HoldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}.hold.json", Self::prefix(&self.scope), self.stamp)
    }
}

/// A stretch of WAL `[from, to)` of one history, or a tail of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StretchName {
    pub system_id: SystemId,
    pub history: String,
    pub tail: bool,
    pub from: Lsn,
    pub to: Lsn,
    /// Set when the plain name was taken by an attempt that died.
    pub retry: Option<String>,
}

impl StretchName {
    /// The prefix of every stretch and tail of a system (of one history).
    #[must_use]
    pub fn prefix(system_id: SystemId, history: Option<&str>) -> String {
        history.map_or_else(|| format!("wal/{system_id}/"), |history| format!("wal/{system_id}/{history}/"))
    }
    /// Where this one lies; beside it lie the other links of its chain.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}{}", Self::prefix(self.system_id, Some(&self.history)), if self.tail { "tail/" } else { "" })
    }
    /// The name up to the part, without a retry's random digits.
    #[must_use]
    pub fn range(&self) -> String {
        format!("{}{}-{}", self.folder(), self.from.sortable(), self.to.sortable())
    }
    #[must_use]
    pub fn part(&self, part: StretchPart) -> String {
        let retry = self.retry.as_ref().map(|rand| format!("-{rand}")).unwrap_or_default();
        format!("{}{retry}{}", self.range(), part.suffix())
    }
    /// The name of the object that holds the sealed bytes of one scope's span.
    #[must_use]
    pub fn span(&self, scope: &Scope, digest: Digest) -> String {
        let (from, to) = (self.from.sortable(), self.to.sortable());
        format!("{scope}/wal/{}/{}/{from}-{to}-{digest}.span.zst.age", self.system_id, self.history)
    }
}

/// The objects of a stretch, beside its spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StretchPart {
    Bundle,
    Envelope,
    Signature,
}

impl StretchPart {
    fn suffix(self) -> &'static str {
        match self {
            Self::Bundle => ".bundle.tar",
            Self::Envelope => ".envelope.json",
            Self::Signature => ".envelope.json.sig",
        }
    }
}

/// What lies in a scope's prefix for whoever has no lifeboat ([`super::readme`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadmeFile {
    Readme,
    LayWal,
    RecoverSet,
}

impl ReadmeFile {
    pub const ALL: [Self; 3] = [Self::Readme, Self::LayWal, Self::RecoverSet];

    fn stem_and_ending(self) -> (&'static str, &'static str) {
        match self {
            Self::Readme => ("README", "txt"),
            Self::LayWal => ("lay-wal", "sh"),
            Self::RecoverSet => ("recover-set", "sh"),
        }
    }

    /// Its name in `scope`. A later edition carries the first 8 digits of its SHA-256, because the plain name is taken for ever.
    #[must_use]
    pub fn name(self, scope: &Scope, edition: Option<&str>) -> String {
        let (stem, ending) = self.stem_and_ending();
        let edition = edition.map(|edition| format!("-{edition}")).unwrap_or_default();
        format!("{scope}/{stem}{edition}.{ending}")
    }

    /// What the names of all its editions in `scope` begin with.
    #[must_use]
    pub fn prefix(self, scope: &Scope) -> String {
        format!("{scope}/{}", self.stem_and_ending().0)
    }

    fn parse(file: &str) -> Option<(Self, Option<String>)> {
        Self::ALL.into_iter().find_map(|known| {
            let (stem, ending) = known.stem_and_ending();
            let rest = file.strip_prefix(stem)?.strip_suffix(ending)?.strip_suffix('.')?;
            match rest.strip_prefix('-') {
                None => rest.is_empty().then_some((known, None)),
                Some(edition) => is_rand(edition).then(|| (known, Some(edition.to_owned()))),
            }
        })
    }
}

/// Any object's name, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    Readme {
        scope: Scope,
        file: ReadmeFile,
        edition: Option<String>,
    },
    Pack {
        scope: Scope,
        digest: Digest,
    },
    Set(SetName, SetPart),
    Point(PointName, PointPart),
    Hold(HoldName),
    Stretch(StretchName, StretchPart),
    Span {
        scope: Scope,
        system_id: SystemId,
        history: String,
        from: Lsn,
        to: Lsn,
        digest: Digest,
    },
    /// Of an honesty drill: nobody names it, and it goes when its lock has lapsed.
    Canary {
        stamp: Stamp,
        attack: String,
    },
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::Readme { scope, file, edition } => file.name(scope, edition.as_deref()),
            Self::Pack { scope, digest } => pack(scope, *digest),
            Self::Set(name, part) => name.part(*part),
            Self::Point(name, part) => name.part(*part),
            Self::Hold(name) => name.to_string(),
            Self::Stretch(name, part) => name.part(*part),
            Self::Span { scope, system_id, history, from, to, digest } => {
                let (history, retry) = (history.clone(), None);
                StretchName { system_id: *system_id, history, tail: false, from: *from, to: *to, retry }
                    .span(scope, *digest)
            }
            Self::Canary { stamp, attack } => format!("canary/{stamp}/{attack}"),
        })
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError { text: text.to_owned() };
        let name = match (text.strip_prefix("wal/"), text.strip_prefix("canary/")) {
            (Some(rest), _) => stretch(rest),
            (None, Some(rest)) => canary(rest),
            (None, None) => scoped(text),
        };
        // What parses but prints otherwise (lower-case LSNs, a leading zero) would be a second name for one thing.
        name.filter(|name| name.to_string() == text).ok_or_else(wrong)
    }
}

fn scoped(text: &str) -> Option<Name> {
    let parts: Vec<&str> = text.split('/').collect();
    let split = if parts.first() == Some(&"estate") { 1 } else { 2 };
    let scope: Scope = parts.get(..split)?.join("/").parse().ok()?;
    match parts.get(split..)? {
        [file] => ReadmeFile::parse(file).map(|(file, edition)| Name::Readme { scope, file, edition }),
        ["packs", _, file] => Some(Name::Pack { scope, digest: file.strip_suffix(".tar.zst.age")?.parse().ok()? }),
        ["sets", source, file] if is_plain_name(source) => {
            let (stamp, rest) = file.split_at_checked(file.find('.')?)?;
            let parts = [SetPart::Body, SetPart::Chunks, SetPart::Envelope, SetPart::Signature];
            let part = parts.into_iter().find(|part| part.suffix() == rest)?;
            let stamp = Stamp::parse(stamp)?;
            Some(Name::Set(SetName { scope, source: (*source).to_owned(), stamp }, part))
        }
        ["points", file] => {
            let (stamp, rest) = file.split_at_checked(file.find('.')?)?;
            let parts = [PointPart::Body, PointPart::Envelope, PointPart::Signature];
            let part = parts.into_iter().find(|part| part.suffix() == rest)?;
            Some(Name::Point(PointName { scope, stamp: Stamp::parse(stamp)? }, part))
        }
        ["holds", file] => {
            let stamp = Stamp::parse(file.strip_suffix(".hold.json")?)?;
            Some(Name::Hold(HoldName { scope, stamp }))
        }
        ["wal", system_id, history, file] if is_history(history) => {
            let mut range = file.strip_suffix(".span.zst.age")?.split('-');
            let (from, to) = (range.next()?, range.next()?);
            Some(Name::Span {
                scope,
                system_id: system_id.parse().ok()?,
                history: (*history).to_owned(),
                from: Lsn::from_sortable(from).ok()?,
                to: Lsn::from_sortable(to).ok()?,
                digest: range.next()?.parse().ok()?,
            })
        }
        _ => None,
    }
}

fn canary(rest: &str) -> Option<Name> {
    let (stamp, attack) = rest.split_once('/')?;
    is_plain_name(attack).then_some(())?;
    Some(Name::Canary { stamp: Stamp::parse(stamp)?, attack: attack.to_owned() })
}

fn stretch(rest: &str) -> Option<Name> {
    let parts: Vec<&str> = rest.split('/').collect();
    let (system_id, history, tail, file) = match parts[..] {
        [system_id, history, file] => (system_id, history, false, file),
        [system_id, history, "tail", file] => (system_id, history, true, file),
        _ => return None,
    };
    let (range, suffix) = file.split_at_checked(file.find('.')?)?;
    let parts = [StretchPart::Bundle, StretchPart::Envelope, StretchPart::Signature];
    let part = parts.into_iter().find(|part| part.suffix() == suffix)?;
    let mut range = range.split('-');
    let (from, to, retry) = (range.next()?, range.next()?, range.next());
    if !is_history(history) || retry.is_some_and(|rand| !is_rand(rand)) {
        return None;
    }
    let name = StretchName {
        system_id: system_id.parse().ok()?,
        history: history.to_owned(),
        tail,
        from: Lsn::from_sortable(from).ok()?,
        to: Lsn::from_sortable(to).ok()?,
        retry: retry.map(str::to_owned),
    };
    Some(Name::Stretch(name, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch_name(tail: bool, retry: Option<&str>) -> StretchName {
        StretchName {
            system_id: SystemId(7_300_000_000_000_000_001),
            history: history(Timeline(2), b"1\t0/3000000\tno recovery target specified\n"),
            tail,
            from: Lsn(0x16_B374_D848),
            to: Lsn(0x16_C000_0000),
            retry: retry.map(str::to_owned),
        }
    }

    #[test]
    fn every_name_parses_back_to_itself() {
        let stamp = Stamp::new("2026-11-22T07:24:00Z".parse().unwrap()).unwrap();
        assert!(stamp.to_string().starts_with("20261122T072400Z-"));
        assert_eq!(stamp.time(), Some("2026-11-22T07:24:00Z".parse().unwrap()));
        let digest = Digest::of(b"pack");
        for scope in [Scope::Tenant("acme".into()), Scope::Estate, Scope::Spare(3)] {
            let set = SetName { scope: scope.clone(), source: "main".into(), stamp: stamp.clone() };
            let point = PointName { scope: scope.clone(), stamp: stamp.clone() };
            let hold = HoldName { scope: scope.clone(), stamp: stamp.clone() };
            let mut names =
                vec![pack(&scope, digest), stretch_name(false, None).span(&scope, digest), hold.to_string()];
            for file in ReadmeFile::ALL {
                names.extend([file.name(&scope, None), file.name(&scope, Some("0badcafe"))]);
            }
            let mut names = vec![pack(&scope, digest), stretch_name(false, None).span(&scope, digest)];
            names.push(format!("canary/{stamp}/delete-version"));
            for part in [SetPart::Body, SetPart::Chunks, SetPart::Envelope, SetPart::Signature] {
                names.push(set.part(part));
            }
            for part in [PointPart::Body, PointPart::Envelope, PointPart::Signature] {
                names.push(point.part(part));
            }
            for stretch in [stretch_name(false, None), stretch_name(true, None), stretch_name(false, Some("0badcafe"))]
            {
                for part in [StretchPart::Bundle, StretchPart::Envelope, StretchPart::Signature] {
                    names.push(stretch.part(part));
                }
            }
            for name in names {
                assert_eq!(name.parse::<Name>().unwrap().to_string(), name);
            }
        }
    }

    #[test]
    fn what_this_module_would_not_write_is_refused() {
        let pack_name = pack(&Scope::Estate, Digest::of(b"x"));
        let stretch = stretch_name(false, None).part(StretchPart::Envelope);
        for text in [
            String::new(),
            "wal/1/2".into(),
            pack_name.replace("packs/", "packs/0"),
            format!("/{pack_name}"),
            format!("tenant/../{pack_name}"),
            stretch.to_lowercase(),
            stretch.replace("wal/7", "wal/07"),
            "README.txt".into(),
            "tenant/acme/README-1.txt".into(),
            "tenant/acme/README.md".into(),
            stretch.replace(".envelope", "-xxxxxxxx.envelope"),
            "estate/sets/main/20261122T072400Z-1a2b3c4d.other".into(),
            "estate/sets/Main/20261122T072400Z-1a2b3c4d.envelope.json".into(),
            "canary/20261122T072400Z-1a2b3c4d".into(),
            "canary/20261122T072400Z-1a2b3c4d/a/b".into(),
            "canary/x/shorten".into(),
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn stretches_sort_by_position() {
        let mut later = stretch_name(false, None);
        later.from = Lsn(0x100_0000_0000);
        assert!(stretch_name(false, None).part(StretchPart::Envelope) < later.part(StretchPart::Envelope));
    }
}
