//! Level 2, the order of work: every chosen object is read once, and opened by whoever names it.
//!
//! WAL and points first, then scope by scope the bodies of its sets, and the packs that they draw on: what must lie in which pack is
//! held for one scope at a time. What nobody opens (another's scope, the writer's chunk maps) is read all the same.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use super::contents::{self, Knows, Opened, Packs};
use super::locks::{Need, Needs};
use super::sums::{self, Checked};
use super::survey::Survey;
use super::{READS, Report};
use crate::ids::Scope;
use crate::repo::envelope::{EnvelopeKind, ObjectRef, Verified};
use crate::repo::error::RepoError;
use crate::repo::name::Name;
use crate::repo::reader::Reader;
use crate::watch::Watch;

/// What is sealed to the writer alone.
const CHUNK_MAP: &str = ".chunks.age";

pub(super) struct Opening<'a> {
    pub reader: &'a Reader,
    pub survey: &'a Survey,
    pub needs: &'a Needs,
    pub knows: &'a Knows,
    /// What is still to be read.
    pub chosen: BTreeSet<String>,
    pub watch: &'a dyn Watch,
    pub report: &'a mut Report,
}

/// One object to read, for an envelope that names it.
struct Job<'a> {
    need: &'a Need,
    envelope: &'a Verified,
}

impl<'a> Opening<'a> {
    pub async fn run(mut self) -> Result<(), RepoError> {
        let bytes = self.chosen.iter().filter_map(|name| self.needs.present.get(name)).map(|need| need.object.bytes);
        self.watch.stage("reading and opening", Some(bytes.sum()));
        self.wal().await?;
        self.points().await?;
        for (scope, sets) in self.sets() {
            self.scope(&scope, sets).await?;
        }
        self.rest().await
    }

    fn live(&self, kinds: &[EnvelopeKind]) -> Vec<&'a Verified> {
        let (survey, needs) = (self.survey, self.needs);
        let live = needs.live.iter().filter_map(|at| survey.good.get(*at)).map(|read| &read.verified);
        live.filter(|envelope| kinds.contains(&envelope.kind)).collect()
    }

    /// The job of reading `object`, when it is chosen and was not read yet.
    fn take(&mut self, envelope: &'a Verified, object: &ObjectRef) -> Option<Job<'a>> {
        let need = self.needs.present.get(&object.name)?;
        self.chosen.remove(&object.name).then_some(Job { need, envelope })
    }

    /// Takes in what was read; gives the content where it is right.
    fn read(&mut self, checked: Checked, content: Option<Bytes>) -> Option<Bytes> {
        self.watch.advance(checked.bytes);
        self.report.note(checked);
        content
    }

    fn opened(&mut self, stored_bytes: u64, opened: Opened) {
        match opened {
            Opened::Whole(_) => self.report.counts.opened.add(stored_bytes),
            Opened::NoKey(scope) => self.not_opened(&scope.to_string(), stored_bytes),
            Opened::Bad(finding) => self.report.findings.push(finding),
        }
    }

    fn not_opened(&mut self, whose: &str, stored_bytes: u64) {
        self.report.counts.not_opened.entry(whose.to_owned()).or_default().add(stored_bytes);
    }

    async fn wal(&mut self) -> Result<(), RepoError> {
        let live = self.live(&[EnvelopeKind::Stretch, EnvelopeKind::Tail]);
        let pairs = live.into_iter().flat_map(|envelope| envelope.objects.iter().map(move |object| (envelope, object)));
        let jobs: Vec<Job<'a>> = pairs.filter_map(|(envelope, object)| self.take(envelope, object)).collect();
        let (reader, survey, knows) = (self.reader, self.survey, self.knows);
        let scopes = &survey.scopes;
        let each = jobs.into_iter().map(|job| async move {
            let (checked, content) = sums::read(reader, survey, job.need).await?;
            let mut opened = Vec::new();
            for wal in job.envelope.wal.iter().filter(|_| content.is_some()) {
                let here = wal.spans.iter().filter(|span| span.object == job.need.object.name);
                for span in here.filter(|span| scopes.is_empty() || scopes.contains(&span.scope)) {
                    let stored = content.as_ref().ok_or(RepoError::Stopped)?;
                    opened.push((span.bytes, contents::span(&reader.identities, wal, span, stored, knows).await?));
                }
            }
            Ok::<_, RepoError>((checked, opened))
        });
        let each: Vec<_> = each.collect();
        let mut done = futures::stream::iter(each).buffer_unordered(READS);
        while let Some((checked, opened)) = done.try_next().await? {
            self.read(checked, None);
            for (stored_bytes, opened) in opened {
                self.opened(stored_bytes, opened);
            }
        }
        Ok(())
    }

    async fn points(&mut self) -> Result<(), RepoError> {
        let live = self.live(&[EnvelopeKind::Point]);
        for (job, checked, content) in self.read_bodies(live).await? {
            if let Some(sealed) = self.read(checked, content) {
                let (point, object) = (job.envelope, &job.need.object);
                let opened = contents::point(&self.reader.identities, point, object, sealed, self.knows).await?;
                self.opened(object.bytes, opened);
            }
        }
        Ok(())
    }

    fn sets(&self) -> BTreeMap<Scope, Vec<&'a Verified>> {
        let mut sets: BTreeMap<Scope, Vec<&'a Verified>> = BTreeMap::new();
        for set in self.live(&[EnvelopeKind::Set]) {
            sets.entry(set.scope.clone()).or_default().push(set);
        }
        sets
    }

    /// The body of each envelope that is chosen, read.
    async fn read_bodies(
        &mut self,
        envelopes: Vec<&'a Verified>,
    ) -> Result<Vec<(Job<'a>, Checked, Option<Bytes>)>, RepoError> {
        let pairs = envelopes.into_iter().filter_map(|envelope| Some((envelope, contents::body_of(envelope)?)));
        let jobs: Vec<Job<'a>> = pairs.filter_map(|(envelope, object)| self.take(envelope, object)).collect();
        let (reader, survey) = (self.reader, self.survey);
        let each = jobs.into_iter().map(|job| async move {
            let (checked, content) = sums::read(reader, survey, job.need).await?;
            Ok::<_, RepoError>((job, checked, content))
        });
        let each: Vec<_> = each.collect();
        futures::stream::iter(each).buffered(READS).try_collect().await
    }

    /// The sets of one scope, then their packs.
    async fn scope(&mut self, scope: &Scope, sets: Vec<&'a Verified>) -> Result<(), RepoError> {
        let mut packs = Packs::new();
        for few in sets.chunks(READS) {
            for (job, checked, content) in self.read_bodies(few.to_vec()).await? {
                if let Some(sealed) = self.read(checked, content) {
                    let (set, object) = (job.envelope, &job.need.object);
                    let opened = contents::body(&self.reader.identities, set, object, sealed, &mut packs).await?;
                    self.opened(object.bytes, opened);
                }
            }
        }
        let (reader, survey) = (self.reader, self.survey);
        let wanted = packs.into_iter().filter(|(name, _)| self.chosen.remove(name));
        let wanted: Vec<_> =
            wanted.filter_map(|(name, wanted)| Some((self.needs.present.get(&name)?, wanted))).collect();
        let each = wanted.into_iter().map(|(need, wanted)| async move {
            let (checked, content) = sums::read(reader, survey, need).await?;
            let opened = match content {
                Some(sealed) => Some(contents::pack(&reader.identities, &need.object.name, sealed, wanted).await?),
                None => None,
            };
            Ok::<_, RepoError>((checked, opened))
        });
        let each: Vec<_> = each.collect();
        let mut done = futures::stream::iter(each).buffer_unordered(READS);
        while let Some((checked, opened)) = done.try_next().await? {
            let stored_bytes = checked.bytes;
            self.read(checked, None);
            if let Some(opened) = opened {
                self.opened(stored_bytes, opened);
            }
        }
        drop(done);
        self.closed(scope).await
    }

    /// The chosen packs of a scope that no opened body asked for: their bytes are read, and they are not opened.
    async fn closed(&mut self, scope: &Scope) -> Result<(), RepoError> {
        let prefix = format!("{scope}/packs/");
        let names: Vec<String> = self.chosen.iter().filter(|name| name.starts_with(&prefix)).cloned().collect();
        self.sums(names, |_| Some(scope.to_string())).await
    }

    /// What is left: the writer's chunk maps, and readmes, which are not sealed.
    async fn rest(mut self) -> Result<(), RepoError> {
        let names: Vec<String> = self.chosen.iter().cloned().collect();
        let whose = |name: &str| match name {
            _ if name.ends_with(CHUNK_MAP) => Some("the writer".to_owned()),
            _ if matches!(name.parse(), Ok(Name::Readme { .. })) => None,
            _ => Some("nobody".to_owned()),
        };
        self.sums(names, whose).await
    }

    /// Reads `names` for their sums; `whose` says who could open one, none where there is nothing to open.
    async fn sums(&mut self, names: Vec<String>, whose: impl Fn(&str) -> Option<String>) -> Result<(), RepoError> {
        for name in &names {
            self.chosen.remove(name);
        }
        let (reader, survey, needs) = (self.reader, self.survey, self.needs);
        let wanted = names.iter().filter_map(|name| needs.present.get(name));
        let each: Vec<_> = wanted.map(|need| sums::read(reader, survey, need)).collect();
        let mut done = futures::stream::iter(each).buffer_unordered(READS);
        while let Some((checked, content)) = done.try_next().await? {
            let (name, stored_bytes) = (checked.name.clone(), checked.bytes);
            if self.read(checked, content).is_some()
                && let Some(whose) = whose(&name)
            {
                self.not_opened(&whose, stored_bytes);
            }
        }
        Ok(())
    }
}
