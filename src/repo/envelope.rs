//! The envelope: what is signed and readable without a key. Its arrival in the store is the commit of what it names.
//!
//! Clear JSON, one object, written once as `....envelope.json` after everything it names and after its signature
//! (`....envelope.json.sig`, over exactly these bytes). It carries its own full name, so that it cannot be moved; the hash of the
//! envelope before it, so that none can be taken out; and name, SHA-256, size and lock end of every object it needs. It says
//! nothing about content beyond what a listing shows.
//!
//! Unknown fields are refused, but for those that begin with `x_`: whoever must add something without a new format, may.

use std::collections::BTreeMap;
use std::ops::Deref;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::name::{Name, NameError, PointPart, SetPart, StretchPart};
use crate::ids::{DbOid, Digest, Lsn, Scope, SystemId, Timeline};

/// The format this version writes and reads.
pub const FORMAT: u32 = 1;
/// The largest envelope a reader takes, in bytes: 100 000 objects' worth.
pub const MAX_BYTES: usize = 32 << 20;

/// Why some bytes are not an envelope, or not the one looked for.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error("it is not an envelope")]
    NotJson(#[source] serde_json::Error),
    #[error("its format is {found}; this version knows format {FORMAT}")]
    Format { found: u64 },
    #[error("it says that it is {says}")]
    Misplaced { says: String },
    #[error("its field '{field}' is not known")]
    UnknownField { field: String },
    #[error("it contradicts its own name: {what}")]
    Contradicts { what: &'static str },
    #[error("it has {bytes} bytes, more than an envelope may have")]
    TooLong { bytes: usize },
    #[error("it names something that is not an object")]
    Name(#[from] NameError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvelopeKind {
    Set,
    Point,
    Stretch,
    Tail,
}

/// An object that an envelope needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    pub name: String,
    pub sha256: Digest,
    pub bytes: u64,
    /// Its lock's end when the envelope was written; locks only ever grow.
    pub locked_until: Timestamp,
}

/// The link to the envelope before in the same chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    pub name: String,
    pub sha256: Digest,
}

/// Which scope a database's records were given to, from where on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    pub oid: DbOid,
    pub scope: Scope,
    pub from_lsn: Lsn,
    /// Where the database was dropped; an OID can be used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_lsn: Option<Lsn>,
}

/// Where one scope's share of a stretch lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    pub scope: Scope,
    pub epoch: u32,
    /// The object that holds it: a span of its own, or the stretch's bundle.
    pub object: String,
    /// Where in the bundle its age file begins; a span object is one age file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Size of the age file.
    pub bytes: u64,
    /// SHA-256 of the age file.
    pub sha256: Digest,
    /// Size of what is in it: the bound for whoever opens it.
    pub plain_bytes: u64,
}

/// What a stretch of WAL says in clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wal {
    pub system_id: SystemId,
    pub timeline: Timeline,
    /// [`super::name::history`] of the timeline.
    pub history: String,
    pub from: Lsn,
    pub to: Lsn,
    /// Where the last record of the stretch begins: the next stretch's first record points back to it.
    pub last_record: Option<Lsn>,
    pub first_commit_time: Option<Timestamp>,
    /// The greatest commit time, which need not be the last commit's.
    pub last_commit_time: Option<Timestamp>,
    pub commits: u64,
    /// The server's clock at its last message before `to` was complete.
    pub server_clock: Option<Timestamp>,
    pub bindings: Vec<Binding>,
    /// Whether some of it was not understood and lies in the quarantine scope.
    pub quarantined: bool,
    /// Filled in by the writer.
    #[serde(default)]
    pub spans: Vec<Span>,
}

impl Wal {
    /// Whether two envelopes speak of the same WAL: everything but how it was sealed and what the clock said on arrival.
    #[must_use]
    pub fn same_stretch(&self, other: &Self) -> bool {
        let key = |w: &Self| {
            (w.system_id, w.timeline, w.from, w.to, w.last_record, w.first_commit_time, w.last_commit_time, w.commits)
        };
        key(self) == key(other) && self.history == other.history && self.quarantined == other.quarantined
    }
}

/// See the module's page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    pub format: u32,
    pub kind: EnvelopeKind,
    /// Its own full name.
    pub name: String,
    /// For a stretch: the cluster it comes from.
    pub scope: Scope,
    pub epoch: u32,
    /// What was captured; for a point the tenant's id, for a stretch the cluster's name.
    pub source: String,
    /// When it was begun, by the writer's clock.
    pub time: Timestamp,
    pub writer: String,
    pub previous: Option<Previous>,
    pub locked_until: Timestamp,
    pub objects: Vec<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<Wal>,
    /// What a listing shows, and no more.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub facts: serde_json::Value,
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl Envelope {
    /// Reads an envelope that was found at `name`.
    ///
    /// # Errors
    /// See [`EnvelopeError`]; whether it may be believed is the signature's matter.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, EnvelopeError> {
        #[derive(Deserialize)]
        struct Version {
            format: u64,
        }
        if bytes.len() > MAX_BYTES {
            return Err(EnvelopeError::TooLong { bytes: bytes.len() });
        }
        let version: Version = serde_json::from_slice(bytes).map_err(EnvelopeError::NotJson)?;
        if version.format != u64::from(FORMAT) {
            return Err(EnvelopeError::Format { found: version.format });
        }
        let envelope: Self = serde_json::from_slice(bytes).map_err(EnvelopeError::NotJson)?;
        if envelope.name != name {
            return Err(EnvelopeError::Misplaced { says: envelope.name });
        }
        if let Some(field) = envelope.extra.keys().find(|field| !field.starts_with("x_")) {
            return Err(EnvelopeError::UnknownField { field: field.clone() });
        }
        envelope.agree_with_name()?;
        Ok(envelope)
    }

    /// What the name says and what the fields say must be one thing: listings go by names, restores by fields.
    fn agree_with_name(&self) -> Result<(), EnvelopeError> {
        let fine = match self.name.parse()? {
            Name::Set(name, SetPart::Envelope) => {
                self.kind == EnvelopeKind::Set && name.scope == self.scope && name.source == self.source
            }
            Name::Point(name, PointPart::Envelope) => self.kind == EnvelopeKind::Point && name.scope == self.scope,
            Name::Stretch(name, StretchPart::Envelope) => {
                let kind = if name.tail { EnvelopeKind::Tail } else { EnvelopeKind::Stretch };
                let wal = self.wal.as_ref().ok_or(EnvelopeError::Contradicts { what: "there is no WAL in it" })?;
                let range = (name.system_id, &name.history, name.from, name.to);
                // A tail without length is a heartbeat: up to here, and at this time, the server had nothing new.
                let forward = wal.from < wal.to || (wal.from == wal.to && name.tail);
                self.kind == kind && range == (wal.system_id, &wal.history, wal.from, wal.to) && forward
            }
            _ => false,
        };
        if fine { Ok(()) } else { Err(EnvelopeError::Contradicts { what: "kind, scope, source or range" }) }
    }

    /// The bytes that are stored and signed.
    ///
    /// # Errors
    /// `NotJson`, when a fact cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EnvelopeError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(EnvelopeError::NotJson)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The object of this envelope whose name ends with `suffix`.
    #[must_use]
    pub fn object(&self, suffix: &str) -> Option<&ObjectRef> {
        self.objects.iter().find(|object| object.name.ends_with(suffix))
    }
}

/// An envelope whose signature was found right: only these are acted on. Made by [`super::reader::Reader`] and by the writer of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    pub envelope: Envelope,
    /// SHA-256 of its stored bytes.
    pub digest: Digest,
    pub bytes: u64,
    /// Who signed it, by the signers file.
    pub signer: String,
    /// When the store says it arrived.
    pub created: Timestamp,
}

impl Deref for Verified {
    type Target = Envelope;
    fn deref(&self) -> &Envelope {
        &self.envelope
    }
}

impl Verified {
    /// How another envelope names this one.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            name: self.name.clone(),
            sha256: self.digest,
            bytes: self.bytes,
            locked_until: self.envelope.locked_until,
        }
    }

    /// How the next one in the chain names this one.
    #[must_use]
    pub fn link(&self) -> Previous {
        Previous { name: self.name.clone(), sha256: self.digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time() -> Timestamp {
        "2026-11-22T07:24:00Z".parse().unwrap()
    }

    fn envelope() -> Envelope {
        let object = ObjectRef {
            name: super::super::name::pack(&Scope::Tenant("acme".into()), Digest::of(b"pack")),
            sha256: Digest::of(b"pack"),
            bytes: 4,
            locked_until: time(),
        };
        Envelope {
            format: FORMAT,
            kind: EnvelopeKind::Set,
            name: "tenant/acme/sets/main/20261122T072400Z-1a2b3c4d.envelope.json".into(),
            scope: Scope::Tenant("acme".into()),
            epoch: 1,
            source: "main".into(),
            time: time(),
            writer: "writer-1".into(),
            previous: None,
            locked_until: time(),
            objects: vec![object],
            wal: None,
            facts: serde_json::json!({"files": 3}),
            extra: BTreeMap::new(),
        }
    }

    fn altered(change: impl FnOnce(&mut serde_json::Value)) -> Result<Envelope, EnvelopeError> {
        let good = envelope();
        let mut value = serde_json::to_value(&good).unwrap();
        change(&mut value);
        Envelope::parse(value.to_string().as_bytes(), &good.name)
    }

    #[test]
    fn an_envelope_reads_back() {
        let good = envelope();
        assert_eq!(Envelope::parse(&good.to_bytes().unwrap(), &good.name).unwrap(), good);
    }

    #[test]
    fn one_found_elsewhere_is_refused() {
        let good = envelope();
        let error = Envelope::parse(&good.to_bytes().unwrap(), &good.name.replace("acme", "globex")).unwrap_err();
        assert!(matches!(error, EnvelopeError::Misplaced { .. }));
    }

    #[test]
    fn another_format_is_said_before_its_fields_are_looked_at() {
        let error = Envelope::parse(br#"{"format": 2, "future": true}"#, "x").unwrap_err();
        assert!(matches!(error, EnvelopeError::Format { found: 2 }));
    }

    #[test]
    fn unknown_fields_are_refused_unless_they_are_marked_as_extra() {
        let error = altered(|value| value["surprise"] = 1.into()).unwrap_err();
        assert!(matches!(error, EnvelopeError::UnknownField { field } if field == "surprise"));
        assert_eq!(altered(|value| value["x_note"] = 1.into()).unwrap().extra.len(), 1);
        assert!(altered(|value| value["objects"][0]["surprise"] = 1.into()).is_err());
    }

    #[test]
    fn a_name_that_contradicts_the_fields_is_refused() {
        for (field, wrong) in [("scope", "tenant/globex"), ("source", "other"), ("kind", "point")] {
            let error = altered(|value| value[field] = wrong.into()).unwrap_err();
            assert!(matches!(error, EnvelopeError::Contradicts { .. }), "{field}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Envelope::parse(&bytes, "x");
        }

        #[test]
        fn no_altered_envelope_makes_it_panic_or_pass_as_the_same(at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let good = envelope();
            let mut bytes = good.to_bytes().unwrap();
            let at = at.index(bytes.len());
            let was = std::mem::replace(&mut bytes[at], to);
            if let Ok(parsed) = Envelope::parse(&bytes, &good.name) {
                // Some bytes say nothing: blanks between fields, and the case of a time's T and Z and of hex digits. The
                // signature is over the bytes, so none of these passes for the same.
                let same_word = was.eq_ignore_ascii_case(&to) || (was == b'T' && to == b' ');
                prop_assert!(parsed != good || same_word || was.is_ascii_whitespace());
            }
        }
    }
}
