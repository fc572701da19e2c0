//! Judging one commit, one pack, one marker: asking the store what the policy needs to know, and removing in the right order.

use super::group::Group;
use super::names::Names;
use super::policy::{self, Reason, Seen, Verdict};
use super::{Count, Expire, ExpireError};
use crate::ids::Scope;
use crate::repo::envelope::{ObjectRef, Verified};
use crate::repo::fetch;
use crate::repo::name::Name;
use crate::store::{Listed, LockState, StoreError};

/// What came of one commit.
#[derive(Default)]
pub(super) struct Outcome {
    pub verdicts: Vec<Verdict>,
    /// What its envelope names, if that stays.
    pub named: Vec<ObjectRef>,
    pub crowd: Count,
}

/// An envelope that is believed, with the versions of it and of its signature that were right together.
struct Believed {
    verified: Verified,
    envelope: Listed,
    signature: Listed,
}

impl Expire {
    /// Judges a commit, and removes what goes unless it is a dry run or not this run's business.
    pub async fn judge_group(
        &self,
        group: Group,
        named: &Names,
        held: bool,
        may_remove: bool,
    ) -> Result<Outcome, ExpireError> {
        let mut outcome = Outcome { crowd: group.crowd, ..Outcome::default() };
        let all = [&group.envelopes, &group.signatures, &group.parts];
        let young = group.created().and_then(|created| created.checked_add(self.options.tail_lock).ok());
        if group.tail && young.is_some_and(|until| until > self.now) {
            let verdicts = all.into_iter().flatten().map(|listed| Verdict::of(listed, Reason::Live));
            outcome.verdicts.extend(verdicts);
            return Ok(outcome);
        }
        let believed = self.believed(&group).await?;
        let mut staying = Vec::new();
        // Copies of one envelope can lie here where puts are not create-only. Those that go do so before any that they need.
        for one in &believed {
            let reason = self.judge_envelope(one, named, held, may_remove).await?;
            outcome.verdicts.push(Verdict::of(&one.envelope, reason));
            if !reason.removes() && reason != Reason::Beyond {
                staying.push(one);
            }
        }
        outcome.named = staying.iter().flat_map(|one| one.verified.envelope.objects.clone()).collect();
        if !may_remove {
            return Ok(outcome);
        }
        let is_believed = |listed: &Listed| believed.iter().any(|one| one.envelope.version == listed.version);
        for listed in group.envelopes.iter().filter(|listed| !is_believed(listed)) {
            let verdict = if held && believed.is_empty() {
                Verdict::of(listed, Reason::HoldOpen)
            } else {
                self.judge_alone(listed, Reason::Unbelieved).await?
            };
            outcome.verdicts.push(verdict);
        }
        let free = if believed.is_empty() { Reason::Unnamed } else { Reason::Lapsed };
        for listed in group.signatures.iter().chain(&group.parts) {
            let needed = staying.iter().any(|one| {
                one.signature.version == listed.version && one.signature.name == listed.name || one.names(listed)
            });
            outcome.verdicts.push(if needed {
                Verdict::of(listed, Reason::Named)
            } else if held && staying.is_empty() {
                Verdict::of(listed, Reason::HoldOpen)
            } else {
                self.judge_alone(listed, if staying.is_empty() { free } else { Reason::Unnamed }).await?
            });
        }
        Ok(outcome)
    }

    async fn judge_envelope(
        &self,
        one: &Believed,
        named: &Names,
        held: bool,
        may_remove: bool,
    ) -> Result<Reason, ExpireError> {
        let (now, longest) = (self.now, self.options.longest);
        let seen = Seen {
            says: one.verified.envelope.locked_until,
            created: one.envelope.created,
            named: named.contains(&one.envelope.name, one.envelope.bytes),
            hold_open: held,
        };
        if let Some(reason) = seen.at_once(now, longest) {
            return Ok(reason);
        }
        let (own, signature) = (self.lock(&one.envelope).await?, self.lock(&one.signature).await?);
        let reason = seen.asked(&own, &signature, now, longest);
        if !reason.removes() {
            return Ok(reason);
        }
        // Where another run is to remove it, what it names is not this one's to take either.
        if may_remove { self.carry_out(&one.envelope, reason).await } else { Ok(Reason::Closing) }
    }

    /// What nobody needs: its own lock decides.
    pub async fn judge_alone(&self, listed: &Listed, free: Reason) -> Result<Verdict, ExpireError> {
        let reason = policy::alone(&self.lock(listed).await?, self.now, free);
        let reason = if reason.removes() { self.carry_out(listed, reason).await? } else { reason };
        Ok(Verdict::of(listed, reason))
    }

    /// A hold's marker: open while a legal hold lies on it. `open` gets its scope. None where it is not this run's business.
    pub async fn judge_marker(&self, marker: &Listed, open: &mut Vec<Scope>) -> Result<Option<Verdict>, ExpireError> {
        let lock = self.lock(marker).await?;
        if lock.held {
            if let Ok(Name::Hold(hold)) = marker.name.parse::<Name>()
                && !open.contains(&hold.scope)
            {
                open.push(hold.scope);
            }
            return Ok(Some(Verdict::of(marker, Reason::Held)));
        }
        let name = marker.name.parse::<Name>();
        let ours = matches!(name, Ok(Name::Hold(hold)) if self.may_remove(Some(&hold.scope)));
        Ok(if ours { Some(self.judge_alone(marker, Reason::Unnamed).await?) } else { None })
    }

    /// What the store says holds a version; of one that is gone, nothing does.
    async fn lock(&self, listed: &Listed) -> Result<LockState, ExpireError> {
        match self.store.lock_state(&listed.name, &listed.version).await {
            Ok(lock) => Ok(lock),
            Err(StoreError::NotFound { .. }) => Ok(LockState::default()),
            Err(error) => Err(error.into()),
        }
    }

    async fn carry_out(&self, listed: &Listed, reason: Reason) -> Result<Reason, ExpireError> {
        if self.options.dry_run {
            return Ok(reason);
        }
        match self.store.remove(&listed.name, &listed.version).await {
            // Another janitor was here.
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(reason),
            Err(error) if is_refusal(&error) => {
                tracing::info!(name = listed.name, error = crate::failure::chain(&error), "not removed");
                Ok(Reason::Refused)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Every version of the commit's envelope that a believed signature covers.
    async fn believed(&self, group: &Group) -> Result<Vec<Believed>, ExpireError> {
        let (store, mut believed) = (&*self.store, Vec::new());
        if group.envelopes.is_empty() || group.signatures.is_empty() {
            return Ok(believed);
        }
        let mut signatures = Vec::new();
        for listed in fetch::tried(&group.signatures) {
            if let Some(bytes) = fetch::version(store, &listed).await? {
                signatures.push((listed, bytes));
            }
        }
        for envelope in fetch::tried(&group.envelopes) {
            let Some(bytes) = fetch::version(store, &envelope).await? else { continue };
            for (signature, armored) in &signatures {
                match fetch::verify(&self.signers, &envelope.name, &bytes, armored, envelope.created) {
                    Ok(verified) => {
                        let (envelope, signature) = (envelope.clone(), signature.clone());
                        believed.push(Believed { verified, envelope, signature });
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(envelope.name, error = crate::failure::chain(&error), "not believed");
                    }
                }
            }
        }
        Ok(believed)
    }
}

impl Believed {
    /// Whether this version may be what the envelope names.
    fn names(&self, listed: &Listed) -> bool {
        let mut objects = self.verified.envelope.objects.iter();
        objects.any(|object| object.name == listed.name && object.bytes == listed.bytes)
    }
}

/// An answer that says no, and would say so again: the others mean that the store has trouble.
fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::Locked { .. } | StoreError::Denied { .. })
}
