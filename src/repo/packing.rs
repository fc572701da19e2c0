//! The pack a set is filling: members in, sealed packs out.
//!
//! Members are placed in the order they are given; which pack a member lies in is known at once, although its frame may still be
//! with a worker. Frames wait in line for those before them, so packs come out the same whatever the threads do.
//! At most one pack is open, and of it only sealed bytes and a few frames are held.

use std::collections::VecDeque;

use age::x25519::Recipient;

use super::chunk::ChunkId;
use super::error::RepoError;
use super::pack::{self, PackBuilder, SHARED_FRAME_BYTES, SealedPack};
use super::pool::{Pending, Pool};

/// A pack is closed when it holds this much uncompressed, well below what a reader accepts.
const CLOSE_PLAIN_BYTES: u64 = pack::MAX_PLAIN_BYTES / 2;

/// How far a pack may grow beyond where it is closed, in the usual case: frames still in line, and the seal's own bytes.
const OVERSHOOT_BYTES: usize = 2 << 20;

enum Slot {
    Ready(Vec<u8>),
    Coming(Pending<Result<Vec<u8>, RepoError>>),
}

/// See the module's page.
pub(super) struct Packing {
    recipient: Recipient,
    close_bytes: usize,
    open: Option<Open>,
}

struct Open {
    /// The number that pieces give for this pack.
    number: u32,
    builder: PackBuilder,
    frames: VecDeque<Slot>,
    /// Members too small for frames of their own.
    shared: Vec<u8>,
    plain_bytes: u64,
}

impl Packing {
    pub fn new(recipient: Recipient, close_bytes: usize) -> Self {
        Self { recipient, close_bytes, open: None }
    }

    /// The number of the open pack; `next` becomes it when none is open.
    fn open(&mut self, next: impl FnOnce() -> u32) -> Result<&mut Open, RepoError> {
        if self.open.is_none() {
            let builder = PackBuilder::new(&self.recipient, self.close_bytes + OVERSHOOT_BYTES)
                .map_err(|error| RepoError::Compress(std::io::Error::other(error)))?;
            let (frames, shared) = (VecDeque::new(), Vec::new());
            self.open = Some(Open { number: next(), builder, frames, shared, plain_bytes: 0 });
        }
        self.open.as_mut().ok_or(RepoError::Stopped)
    }

    /// Places a member that is a frame already.
    pub fn place_frame(
        &mut self,
        frame: Vec<u8>,
        content_bytes: usize,
        next: impl FnOnce() -> u32,
    ) -> Result<u32, RepoError> {
        let open = self.open(next)?;
        open.plain_bytes += pack::member_bytes(content_bytes) as u64;
        open.frames.push_back(Slot::Ready(frame));
        Ok(open.number)
    }

    /// Places a member in the frame that small ones share.
    pub fn place_small(
        &mut self,
        pool: &Pool,
        id: ChunkId,
        content: &[u8],
        next: impl FnOnce() -> u32,
    ) -> Result<u32, RepoError> {
        let open = self.open(next)?;
        open.plain_bytes += pack::member_bytes(content.len()) as u64;
        pack::append_member(&mut open.shared, id, content);
        if open.shared.len() >= SHARED_FRAME_BYTES {
            open.close_shared(pool);
        }
        Ok(open.number)
    }

    /// Seals what has come in; gives the pack when it is full.
    pub fn settle(&mut self, pool: &Pool) -> Result<Option<(u32, SealedPack)>, RepoError> {
        let Some(open) = &mut self.open else {
            return Ok(None);
        };
        open.seal_frames(4 * pool.threads)?;
        if open.builder.stored_bytes() >= self.close_bytes || open.plain_bytes >= CLOSE_PLAIN_BYTES {
            return self.close(pool);
        }
        Ok(None)
    }

    /// Closes the open pack, if there is one.
    pub fn close(&mut self, pool: &Pool) -> Result<Option<(u32, SealedPack)>, RepoError> {
        let Some(mut open) = self.open.take() else {
            return Ok(None);
        };
        open.close_shared(pool);
        open.seal_frames(0)?;
        let sealed = open.builder.finish().map_err(|error| RepoError::Compress(std::io::Error::other(error)))?;
        Ok(Some((open.number, sealed)))
    }
}

impl Open {
    fn close_shared(&mut self, pool: &Pool) {
        if !self.shared.is_empty() {
            let members = std::mem::take(&mut self.shared);
            self.frames.push_back(Slot::Coming(pool.run(move |tools| tools.frame(&members))));
        }
    }

    /// Seals frames from the front of the line, leaving at most `waiting` in it when the first is still with a worker.
    fn seal_frames(&mut self, waiting: usize) -> Result<(), RepoError> {
        while let Some(slot) = self.frames.pop_front() {
            let frame = match slot {
                Slot::Ready(frame) => frame,
                Slot::Coming(pending) if self.frames.len() < waiting => match pending.try_wait() {
                    Ok(done) => done??,
                    Err(pending) => {
                        self.frames.push_front(Slot::Coming(pending));
                        return Ok(());
                    }
                },
                Slot::Coming(pending) => pending.wait()??,
            };
            let pushed = self.builder.push_frame(&frame);
            pushed.map_err(|error| RepoError::Compress(std::io::Error::other(error)))?;
        }
        Ok(())
    }
}
