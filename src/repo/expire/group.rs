//! The objects of one commit, which share a name up to its first dot: envelope, signature and the parts beside them.
//!
//! A listing is in name order, so they follow each other, and one commit after the other can be judged without holding the others.

use futures::{Stream, StreamExt as _, stream};

use super::{Count, Listing};
use crate::repo::name::{Name, PointPart, SetPart, StretchPart};
use crate::store::{Listed, StoreError};

/// How many versions of one commit's objects are judged in a run. The oldest: junk that is piled on later waits for the next.
pub(super) const CROWD: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Group {
    /// The common beginning of its names.
    pub stem: String,
    pub envelopes: Vec<Listed>,
    pub signatures: Vec<Listed>,
    pub parts: Vec<Listed>,
    /// Versions that are too many.
    pub crowd: Count,
    pub tail: bool,
}

enum Role {
    Envelope,
    Signature,
    Part,
}

fn role(name: &Name) -> Option<Role> {
    Some(match name {
        Name::Set(_, SetPart::Envelope)
        | Name::Point(_, PointPart::Envelope)
        | Name::Stretch(_, StretchPart::Envelope) => Role::Envelope,
        Name::Set(_, SetPart::Signature)
        | Name::Point(_, PointPart::Signature)
        | Name::Stretch(_, StretchPart::Signature) => Role::Signature,
        Name::Set(..) | Name::Point(..) | Name::Stretch(..) => Role::Part,
        _ => return None,
    })
}

/// The commits of a listing. Names that are no part of a commit are passed over.
pub(super) fn groups(listing: Listing<'_>) -> impl Stream<Item = Result<Group, StoreError>> + Send + '_ {
    struct State<'a> {
        listing: Listing<'a>,
        open: Option<Group>,
    }
    stream::unfold(Some(State { listing, open: None }), |state| async move {
        let mut state = state?;
        loop {
            match state.listing.next().await {
                None => return state.open.map(|group| (Ok(group), None)),
                Some(Err(error)) => return Some((Err(error), None)),
                Some(Ok(listed)) => {
                    let Ok(name) = listed.name.parse::<Name>() else { continue };
                    let Some(role) = role(&name) else { continue };
                    let stem = stem(&listed.name).to_owned();
                    let finished = state.open.take_if(|open| open.stem != stem);
                    let tail = matches!(&name, Name::Stretch(stretch, _) if stretch.tail);
                    let open = state.open.get_or_insert_with(|| Group { stem, tail, ..Group::default() });
                    open.add(role, listed);
                    if let Some(group) = finished {
                        return Some((Ok(group), Some(state)));
                    }
                }
            }
        }
    })
}

/// A name up to the first dot of its last part.
fn stem(name: &str) -> &str {
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let end = name.get(last..).and_then(|file| file.find('.')).map_or(name.len(), |dot| last + dot);
    name.get(..end).unwrap_or(name)
}

impl Group {
    fn add(&mut self, role: Role, listed: Listed) {
        let versions = match role {
            Role::Envelope => &mut self.envelopes,
            Role::Signature => &mut self.signatures,
            Role::Part => &mut self.parts,
        };
        versions.push(listed);
        if versions.len() > CROWD {
            // Of one time the first that was listed is the newest: see `fetch::oldest_first`.
            let newest = versions.iter().enumerate().rev().max_by_key(|(_, listed)| listed.created).map(|(at, _)| at);
            if let Some(newest) = newest.map(|at| versions.remove(at)) {
                self.crowd.objects += 1;
                self.crowd.bytes += newest.bytes;
            }
        }
    }

    /// When the oldest of it came.
    pub fn created(&self) -> Option<jiff::Timestamp> {
        [&self.envelopes, &self.signatures, &self.parts].into_iter().flatten().map(|listed| listed.created).min()
    }
}
