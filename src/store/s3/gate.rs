//! How many requests may be under way: the number asked for, fewer while the server throttles.
//!
//! Each throttled answer halves what is allowed, at most once per [`CALM`]; each other answer lets it grow back, so that
//! as many answers as are allowed add one. It never falls below one.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Answers to requests that were under way together say the same thing once.
const CALM: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Gate {
    most: f64,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    allowed: f64,
    running: u32,
    throttled: Option<Instant>,
}

/// The right to one request; given back when dropped.
pub(super) struct Turn(Arc<Gate>);

impl Gate {
    pub(super) fn new(requests: u32) -> Self {
        let most = f64::from(requests.max(1));
        Self { most, state: Mutex::new(State { allowed: most, running: 0, throttled: None }), freed: Notify::new() }
    }

    /// Waits for a turn.
    pub(super) async fn enter(self: &Arc<Self>) -> Turn {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable(); // before the look, so that nothing is missed between the two
            if self.try_enter() {
                return Turn(self.clone());
            }
            freed.await;
        }
    }

    fn try_enter(&self) -> bool {
        let mut state = self.state();
        let free = f64::from(state.running) + 1.0 <= state.allowed;
        state.running += u32::from(free);
        free
    }

    /// The server said that it is too much.
    pub(super) fn throttled(&self) {
        let mut state = self.state();
        if state.throttled.is_none_or(|at| at.elapsed() >= CALM) {
            state.throttled = Some(Instant::now());
            state.allowed = (state.allowed / 2.0).max(1.0);
            tracing::debug!(allowed = state.allowed, "the store throttles: fewer requests at once");
        }
    }

    /// The server answered without complaint.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        let before = state.allowed;
        state.allowed = (before + 1.0 / before).min(self.most);
        let one_more = state.allowed.floor() > before.floor();
        drop(state);
        if one_more {
            self.freed.notify_one();
        }
    }

    /// How many are allowed now.
    #[cfg(test)]
    pub(super) fn allowed(&self) -> f64 {
        self.state().allowed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state().running -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn as_many_enter_as_are_allowed_and_the_next_one_when_one_leaves() {
        let gate = Arc::new(Gate::new(2));
        let first = gate.enter().await;
        let _second = gate.enter().await;
        let mut third = Box::pin(gate.enter());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert!((&mut third).now_or_never().is_some());
    }

    #[tokio::test]
    async fn throttling_halves_once_and_answers_grow_it_back() {
        let gate = Arc::new(Gate::new(16));
        for _ in 0..5 {
            gate.throttled();
        }
        assert_eq!(gate.allowed(), 8.0, "five answers to requests that were under way together are one complaint");
        let turns: Vec<_> = futures::future::join_all((0..8).map(|_| gate.enter())).await;
        assert!(gate.enter().now_or_never().is_none());
        for _ in 0..500 {
            gate.answered();
        }
        assert_eq!(gate.allowed(), 16.0, "and no more than was asked for");
        drop(turns);
    }

    #[tokio::test]
    async fn one_always_gets_through() {
        let gate = Arc::new(Gate::new(1));
        gate.throttled();
        assert!(gate.enter().now_or_never().is_some());
    }
}
