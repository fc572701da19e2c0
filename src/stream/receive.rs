//! The loop: receives WAL, splits it, decides when to cut, and tells the server what is durable.
//!
//! Memory is bounded: when a whole stretch waits for the committer, nothing more is read until it takes that, while the
//! server still hears from us.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::alarms;
use super::bindings::{Bindings, Database};
use super::commit::{self, Durable, Job, Line, Locks};
use super::cut::{Cut, Thresholds, Waiting, decide};
use super::gather::{Gathered, Taken};
use super::resume::Position;
use crate::failure::{Failure, Kind};
use crate::ids::{Lsn, Scope};
use crate::postgres::connect::Server;
use crate::postgres::replication::Replication;
use crate::postgres::sql;
use crate::postgres::wal::error::End;
use crate::postgres::wal::version::Version;
use crate::postgres::wal::{Splitter, Start};
use crate::postgres::wal_stream::{WalEvent, WalStream};
use crate::postgres::wire::{Fault, WireError};
use crate::repo::writer::Writer;
use crate::watch::Watch;

/// How often thresholds are looked at.
const TICK: Duration = Duration::from_millis(50);
/// What is complete leaves the splitter in portions of at least this size: a portion per message would be many small ones to join.
const TAKE_BYTES: u64 = 1 << 20;
/// How often the server hears from us even when nothing became durable.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// When the stream ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When it is told to stop.
    Stopped,
    /// As soon as everything the server had flushed when we began is durable.
    CaughtUp,
}

/// What one stream works on.
pub struct Streaming {
    pub server: Server,
    pub slot: String,
    pub thresholds: Thresholds,
    /// An idle server's clock is written down this often, so that a quiet time is covered too.
    pub heartbeat: Duration,
    pub line: Line,
    pub segment_bytes: u32,
    pub version: &'static Version,
    pub locks: Locks,
    pub writer: Arc<Writer>,
    /// The configuration's word on who owns a database of this name.
    pub scopes: BTreeMap<String, Scope>,
    pub watch: Arc<dyn Watch>,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Ended {
    pub from: Lsn,
    pub durable: Lsn,
    pub received_bytes: u64,
    pub commits: u64,
}

/// Streams from `position` until `stop` or `until` says so; what was received completely is durable when it returns.
///
/// Expected flow: preflight has passed, the slot exists, `position` is what the store says.
/// Guarantees: the server is never told more than what the store holds. A stopped stream drains first.
/// Errors: the server's or the store's; what was acknowledged is durable all the same.
pub async fn run(
    streaming: Streaming,
    position: Position,
    durable: watch::Sender<Durable>,
    until: Until,
    stop: CancellationToken,
) -> Result<Ended, Failure> {
    let mut replication = Replication::connect(&streaming.server).await?;
    let goal = replication.identify().await?.flush_lsn;
    let stream = replication
        .start_physical(Some(&streaming.slot), position.at, streaming.line.timeline)
        .await
        .map_err(|error| busy_or(error, &streaming.slot))?;
    let (jobs, queue) = mpsc::channel(1);
    let watched = durable.subscribe();
    let committer = tokio::spawn(commit::run(
        Arc::clone(&streaming.writer),
        streaming.line.clone(),
        streaming.locks.clone(),
        queue,
        durable,
    ));
    let goal = (until == Until::CaughtUp).then_some(goal);
    let mut receiver = Receiver::new(streaming, position, stream, jobs, watched)?;
    receiver.learn_databases().await?;
    let received = receiver.receive(goal, &stop).await;
    // Also when the server went away: what has arrived is stored.
    receiver.drain().await;
    let Receiver { jobs, from, received_bytes, commits, mut stream, durable, .. } = receiver;
    drop(jobs);
    let stored = committer.await.map_err(crate::failure::panicked)?;
    let reached = durable.borrow().to;
    if stored.is_ok() {
        // Best effort: the server may be what went away.
        let _told = stream.status(reached, reached, reached, false).await;
    }
    stored.and(received)?;
    Ok(Ended { from, durable: reached, received_bytes, commits })
}

/// SQLSTATE 55006, `object_in_use`: somebody else streams by this slot.
fn busy_or(error: WireError, slot: &str) -> Failure {
    match &error.fault {
        Fault::Server { sqlstate, .. } if sqlstate == "55006" => Failure::new(
            Kind::Refused,
            format!("slot {slot}"),
            "another stream is using it",
            "one stream is enough; stop the other one to run this one",
        ),
        _ => error.into(),
    }
}

struct Receiver {
    streaming: Streaming,
    stream: WalStream,
    splitter: Splitter<Bindings>,
    jobs: mpsc::Sender<Job>,
    durable: watch::Receiver<Durable>,
    /// Takes since the last stretch; those from `flushed` on are in no tail yet.
    takes: Vec<Taken>,
    flushed: usize,
    /// When the first of what is complete and still in the splitter arrived.
    untaken_since: Option<Instant>,
    from: Lsn,
    /// How far the server had written when it last said so.
    server_end: Lsn,
    clock: Option<Timestamp>,
    /// When `clock` arrived, and when one was last written down.
    clock_heard: Instant,
    clock_written: Instant,
    clock_asked: bool,
    last_record: Option<Lsn>,
    told: Instant,
    received: Lsn,
    received_bytes: u64,
    commits: u64,
}

impl Receiver {
    fn new(
        streaming: Streaming,
        position: Position,
        stream: WalStream,
        jobs: mpsc::Sender<Job>,
        durable: watch::Receiver<Durable>,
    ) -> Result<Self, Failure> {
        let start = Start {
            at: position.at,
            record_aligned: position.record_aligned,
            previous_record: position.previous_record,
            system_id: Some(streaming.line.system_id),
            timeline: streaming.line.timeline,
            segment_bytes: streaming.segment_bytes,
            version: streaming.version,
        };
        Ok(Self {
            splitter: Splitter::new(start, position.bindings)?,
            stream,
            jobs,
            durable,
            takes: Vec::new(),
            flushed: 0,
            untaken_since: None,
            from: position.at,
            server_end: position.at,
            clock: None,
            clock_heard: Instant::now(),
            clock_written: Instant::now(),
            clock_asked: false,
            last_record: position.previous_record,
            told: Instant::now(),
            received: position.at,
            received_bytes: 0,
            commits: 0,
            streaming,
        })
    }

    async fn receive(&mut self, goal: Option<Lsn>, stop: &CancellationToken) -> Result<(), Failure> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if goal.is_some_and(|goal| self.splitter.complete_to() >= goal) {
                return Ok(());
            }
            let may_read = self.waiting().stretch_bytes < self.streaming.thresholds.stretch_bytes;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.jobs.closed() => return Ok(()), // the committer failed; its own error is reported
                event = self.stream.next(), if may_read => self.take_in(event?)?,
                changed = self.durable.changed() => {
                    if changed.is_err() { return Ok(()); }
                    self.tell().await?;
                }
                _ = tick.tick() => {}
            }
            if self.told.elapsed() >= STATUS_EVERY {
                self.tell().await?;
            }
            if self.quiet() && !self.clock_is_fresh() && !self.clock_asked {
                self.ask_clock().await?;
            }
            if self.splitter.owners().wants_names() {
                self.learn_databases().await?;
            }
            self.cut_if_due()?;
        }
    }

    fn take_in(&mut self, event: WalEvent) -> Result<(), Failure> {
        match event {
            WalEvent::XLogData { at, server_end, server_clock, bytes } => {
                self.splitter.feed(at, &bytes)?;
                if let Some(end) = self.splitter.ended() {
                    return Err(not_wal(self.splitter.complete_to(), end));
                }
                self.received = at.plus(bytes.len() as u64);
                self.received_bytes += bytes.len() as u64;
                self.streaming.watch.advance(bytes.len() as u64);
                self.hear(server_clock);
                self.server_end = server_end;
            }
            WalEvent::Keepalive { server_end, server_clock, reply_requested } => {
                self.hear(server_clock);
                self.server_end = server_end;
                if reply_requested {
                    self.told = self.told.checked_sub(STATUS_EVERY).unwrap_or(self.told);
                }
            }
            WalEvent::End { next, at } => {
                return Err(Failure::new(
                    Kind::Failed,
                    format!("cluster {}", self.streaming.line.cluster),
                    format!("the server left timeline {} at {at} for timeline {next}", self.streaming.line.timeline),
                    "take a base backup on the new timeline: `lifeboat backup`; the WAL up to here is stored",
                ));
            }
        }
        Ok(())
    }

    fn hear(&mut self, server_clock: Timestamp) {
        (self.clock, self.clock_heard, self.clock_asked) = (Some(server_clock), Instant::now(), false);
    }

    async fn tell(&mut self) -> Result<(), Failure> {
        let durable = self.durable.borrow_and_update().to;
        self.stream.status(self.received, durable, durable, false).await?;
        self.told = Instant::now();
        Ok(())
    }

    /// A quiet server says the time only every half `wal_sender_timeout`, unless it is asked.
    async fn ask_clock(&mut self) -> Result<(), Failure> {
        let durable = self.durable.borrow().to;
        self.stream.status(self.received, durable, durable, true).await?;
        self.clock_asked = true;
        Ok(())
    }

    /// Asks the server for names; new bindings begin where the splitter stands.
    async fn learn_databases(&mut self) -> Result<(), Failure> {
        let mut connection = sql::connect(&self.streaming.server, &self.streaming.server.database).await?;
        let databases = list_databases(&mut connection).await?;
        let at = self.splitter.complete_to();
        let scopes = &self.streaming.scopes;
        let bindings = self.splitter.owners();
        bindings.learn(&databases, |name| scopes.get(name).cloned(), at);
        for alarm in bindings.take_alarms() {
            alarms::of_bindings(&*self.streaming.watch, &alarm);
        }
        Ok(())
    }

    /// Moves what is complete from the splitter to the takes.
    fn take(&mut self) {
        let arrived = self.untaken_since.take().unwrap_or_else(Instant::now);
        if let Some(split) = self.splitter.take() {
            self.commits += split.commits.count;
            for notice in &split.notices {
                alarms::of_wal(&*self.streaming.watch, notice);
            }
            let owners = self.splitter.owners();
            let taken = Taken::new(split, &self.streaming.line.cluster, |slot| owners.scope(slot).clone(), arrived);
            self.takes.push(taken);
        }
    }

    /// Behind the last take, or where the last stretch ended.
    fn taken_to(&self) -> Lsn {
        self.takes.last().map_or(self.from, |take| take.to)
    }

    fn cut_if_due(&mut self) -> Result<(), Failure> {
        let untaken_bytes = self.splitter.complete_to().since(self.taken_to());
        if untaken_bytes > 0 {
            self.untaken_since.get_or_insert_with(Instant::now);
        }
        if untaken_bytes >= TAKE_BYTES {
            self.take();
        }
        let Some(clock) = self.clock else { return Ok(()) };
        match decide(&self.waiting(), &self.streaming.thresholds) {
            Cut::Stretch => self.send(false, clock),
            Cut::Tail => self.send(true, clock),
            Cut::Nothing if self.quiet() && self.clock_is_fresh() => self.heartbeat(clock),
            Cut::Nothing => {}
        }
        Ok(())
    }

    /// Nothing has come for a while, and all that came before is durable.
    fn quiet(&self) -> bool {
        self.clock_written.elapsed() >= self.streaming.heartbeat
            && self.flushed == self.takes.len()
            && self.splitter.complete_to() == self.from
            && self.durable.borrow().to == self.from
    }

    /// Whether the server's word is from after the quiet time that a heartbeat is about.
    fn clock_is_fresh(&self) -> bool {
        self.clock_heard.duration_since(self.clock_written) >= self.streaming.heartbeat
    }

    /// Writes down that up to here, and at this time, the server had nothing new: a quiet time is covered too.
    fn heartbeat(&mut self, server_clock: Timestamp) {
        let Ok(permit) = self.jobs.clone().try_reserve_owned() else { return };
        self.clock_written = Instant::now();
        let bindings = self.splitter.owners().write_down();
        permit.send(Job { tail: true, wal: Gathered::nothing_at(self.from, self.last_record), bindings, server_clock });
    }

    fn waiting(&self) -> Waiting {
        let end = self.splitter.complete_to();
        let since = |takes: &[Taken]| match takes.first() {
            Some(first) => (end.since(first.from), first.arrived.elapsed()),
            None => (end.since(self.taken_to()), self.untaken_since.map_or(Duration::ZERO, |since| since.elapsed())),
        };
        let (stretch_bytes, stretch_age) = since(&self.takes);
        let (unflushed_bytes, unflushed_age) = since(self.takes.get(self.flushed..).unwrap_or_default());
        let coming_bytes = self.server_end.0.saturating_sub(end.0);
        Waiting { stretch_bytes, unflushed_bytes, coming_bytes, stretch_age, unflushed_age }
    }

    /// Hands a cut to the committer if it has room; otherwise the next tick tries again with more in it.
    fn send(&mut self, tail: bool, server_clock: Timestamp) {
        let Ok(permit) = self.jobs.clone().try_reserve_owned() else { return };
        self.take();
        let first = if tail { self.flushed } else { 0 };
        let Some(wal) = self.takes.get(first..).and_then(Gathered::of) else { return };
        self.from = wal.to;
        self.last_record = wal.last_record;
        self.clock_written = Instant::now();
        let bindings = self.splitter.owners().write_down();
        permit.send(Job { tail, wal, bindings, server_clock });
        if tail {
            self.flushed = self.takes.len();
        } else {
            self.splitter.owners().written_for_good();
            self.takes.clear();
            self.flushed = 0;
        }
    }

    /// Everything complete becomes a last stretch; what is incomplete was never acknowledged and comes again.
    async fn drain(&mut self) {
        self.take();
        let Some(clock) = self.clock else { return };
        if let Some(wal) = Gathered::of(&self.takes) {
            let bindings = self.splitter.owners().write_down();
            // A closed queue means that the committer failed; it says why.
            let _sent = self.jobs.send(Job { tail: false, wal, bindings, server_clock: clock }).await;
            self.takes.clear();
        }
    }
}

/// A live server sends whole, valid WAL; anything else must not be stored as if it were.
fn not_wal(at: Lsn, end: End) -> Failure {
    Failure::new(
        Kind::Integrity,
        format!("WAL at {at}"),
        format!("what the server sent is no valid record: {end}"),
        "check the server's log and disk; `lifeboat stream` goes on from the last valid record",
    )
}

const LIST: &str = "SELECT oid::text, datname::text FROM pg_catalog.pg_database ORDER BY oid";

/// The databases that the server lists now.
pub async fn list_databases(connection: &mut sqlx::PgConnection) -> Result<Vec<Database>, Failure> {
    let rows = sql::text_rows(connection, "the list of databases", LIST).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match row.as_slice() {
            [Some(oid), Some(name)] => Some(Database { oid: crate::ids::DbOid(oid.parse().ok()?), name: name.clone() }),
            _ => None,
        })
        .collect())
}
