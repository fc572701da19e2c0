//! A few threads that hash and compress, each with its own tools, and a gate that bounds what is under way.
//!
//! Work is closures; its result is waited for where it is needed, in the order it was given. Nothing here is async: the waiting
//! side is a blocking thread. A job that panics takes its thread with it and shows as [`RepoError::Stopped`].

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::chunk::ChunkId;
use super::error::RepoError;
use super::pack;

/// What a worker works with.
pub struct Tools {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    /// The frame's plain bytes, and what they read back as.
    plain: Vec<u8>,
    back: Vec<u8>,
    /// Room for the largest frame; what is handed out is only as large as the frame came out.
    frame: Vec<u8>,
}

impl Tools {
    fn new(level: i32) -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
        let decompressor = zstd::bulk::Decompressor::new()?;
        Ok(Self { compressor, decompressor, plain: Vec::new(), back: Vec::new(), frame: Vec::new() })
    }

    /// The frame of one chunk's tar member.
    ///
    /// # Errors
    /// `Compress` or `ReadBack`.
    pub fn member_frame(&mut self, id: ChunkId, content: &[u8]) -> Result<Vec<u8>, RepoError> {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        pack::append_member(&mut plain, id, content);
        let frame = self.frame(&plain);
        self.plain = plain;
        frame
    }

    /// Compresses `plain` as one frame and reads it back: what is stored for years is not left to one pass.
    ///
    /// # Errors
    /// `Compress` or `ReadBack`.
    pub fn frame(&mut self, plain: &[u8]) -> Result<Vec<u8>, RepoError> {
        self.frame.clear();
        self.frame.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.frame).map_err(RepoError::Compress)?;
        let frame = self.frame.clone();
        self.back.clear();
        self.back.reserve(plain.len());
        let read = self.decompressor.decompress_to_buffer(&frame, &mut self.back);
        let same = read.is_ok() && self.back == plain;
        if same { Ok(frame) } else { Err(RepoError::ReadBack) }
    }
}

type Job = Box<dyn FnOnce(&mut Tools) + Send>;

/// What waits for a thread. Threads are woken only when one is idle: most jobs are found by a thread that has just ended another.
struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

struct Waiting {
    jobs: VecDeque<Job>,
    idle: usize,
    alive: usize,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With no thread left the job is dropped, and its waiter sees that.
    fn push(&self, job: Job) {
        let mut waiting = self.lock();
        if waiting.alive > 0 {
            waiting.jobs.push_back(job);
            if waiting.idle > 0 {
                self.came.notify_one();
            }
        }
    }

    /// The next job; `None` when the pool is gone and nothing waits.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.lock();
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.closed {
                return None;
            }
            waiting.idle += 1;
            waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.idle -= 1;
        }
    }
}

/// A thread's place; a thread that panics leaves it too.
struct Place(Arc<Queue>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.alive -= 1;
        let lost = if waiting.alive == 0 { std::mem::take(&mut waiting.jobs) } else { VecDeque::new() };
        // Not under the lock: what a job holds may be the last to hold the pool.
        drop(waiting);
        drop(lost);
    }
}

/// The threads. They end when the pool is dropped and its jobs are done.
pub struct Pool {
    queue: Arc<Queue>,
    pub threads: usize,
}

impl Pool {
    /// # Errors
    /// `Compress`, when zstd or a thread cannot be had.
    pub fn new(threads: usize, level: i32) -> Result<Self, RepoError> {
        let waiting = Waiting { jobs: VecDeque::new(), idle: 0, alive: 0, closed: false };
        let queue = Arc::new(Queue { waiting: Mutex::new(waiting), came: Condvar::new() });
        let pool = Self { queue, threads: threads.max(1) };
        for number in 0..pool.threads {
            let mut tools = Tools::new(level).map_err(RepoError::Compress)?;
            pool.queue.lock().alive += 1;
            let place = Place(Arc::clone(&pool.queue));
            let work = move || {
                while let Some(job) = place.0.next() {
                    job(&mut tools);
                }
            };
            let thread = std::thread::Builder::new().name(format!("pack-{number}"));
            thread.spawn(work).map_err(RepoError::Compress)?;
        }
        Ok(pool)
    }

    /// Has `work` done by one of the threads.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Tools) -> T + Send + 'static) -> Pending<T> {
        let (sender, receiver) = sync_channel(1);
        self.queue.push(Box::new(move |tools| {
            // Whoever asked may have gone; then nobody needs the result.
            let _ = sender.send(work(tools));
        }));
        Pending(receiver)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.came.notify_all();
    }
}

/// A result that may not be there yet.
pub struct Pending<T>(Receiver<T>);

impl<T> Pending<T> {
    /// Waits for it. Blocks: not for async threads.
    ///
    /// # Errors
    /// `Stopped`, when the worker died.
    pub fn wait(self) -> Result<T, RepoError> {
        self.0.recv().map_err(|_| RepoError::Stopped)
    }

    /// The result if it is there, itself again if not.
    ///
    /// # Errors
    /// Itself, to be asked later.
    pub fn try_wait(self) -> Result<Result<T, RepoError>, Self> {
        match self.0.try_recv() {
            Ok(result) => Ok(Ok(result)),
            Err(TryRecvError::Disconnected) => Ok(Err(RepoError::Stopped)),
            Err(TryRecvError::Empty) => Err(self),
        }
    }
}

/// Lets a bounded number of holders through.
pub struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

/// Leave to be under way; gives its place back when dropped.
pub struct Pass(Arc<Gate>);

impl Gate {
    #[must_use]
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(places), freed: Condvar::new() })
    }

    /// Waits for a place. Blocks: not for async threads.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Pass {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Pass(Arc::clone(self))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_to_whoever_asked() {
        let pool = Pool::new(2, 1).unwrap();
        let pending: Vec<_> = (0..100_u64).map(|n| pool.run(move |_| n * n)).collect();
        let results: Vec<u64> = pending.into_iter().map(|p| p.wait().unwrap()).collect();
        assert_eq!(results, (0..100).map(|n| n * n).collect::<Vec<_>>());
    }

    #[test]
    fn a_worker_that_died_is_an_error_and_not_a_wait_without_end() {
        let pool = Pool::new(1, 1).unwrap();
        let dead = pool.run(|_| -> u64 { panic!("as if memory had run out") });
        assert!(matches!(dead.wait(), Err(RepoError::Stopped)));
        assert!(matches!(pool.run(|_| 1).wait(), Err(RepoError::Stopped)));
    }
}
