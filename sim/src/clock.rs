//! Virtual time: it passes only when the executor says so, and the calendar jumps when a test says so (hazard F7).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use asof_world::{Clock, Timestamp};

/// Where every simulated calendar starts: 2026-01-01 00:00:00 UTC.
const START: Timestamp = Timestamp(1_767_225_600_000_000);

/// The clock of one process. Processes of one simulation share the time that passed; each has a calendar of its own.
#[derive(Default)]
pub struct SimClock {
    passed_micros: Arc<AtomicU64>,
    skew_micros: AtomicI64,
}

impl SimClock {
    /// A clock at the start of time.
    pub fn new() -> Self {
        Self::default()
    }

    /// The clock of another process of the same simulation, with a calendar that is right.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { passed_micros: self.passed_micros.clone(), skew_micros: AtomicI64::new(0) }
    }

    /// Puts the calendar forward, as a time server does that corrects a clock.
    pub fn jump_forward(&self, by: Duration) {
        self.skew_micros.fetch_add(micros(by).cast_signed(), Ordering::Relaxed);
    }

    /// Puts the calendar back.
    pub fn jump_back(&self, by: Duration) {
        self.skew_micros.fetch_sub(micros(by).cast_signed(), Ordering::Relaxed);
    }

    /// Lets time pass.
    pub(crate) fn advance(&self, by: Duration) {
        self.passed_micros.fetch_add(micros(by), Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("a simulation does not run for half a million years")
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let now = START.plus(self.monotonic());
        Timestamp(now.0.saturating_add(self.skew_micros.load(Ordering::Relaxed)))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.passed_micros.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_calendar_leaves_the_passing_of_time_alone() {
        let clock = SimClock::new();
        clock.advance(Duration::from_secs(5));
        let before = clock.now();
        clock.jump_back(Duration::from_secs(3600));
        assert_eq!(before.since(clock.now()), Duration::from_secs(3600));
        clock.jump_forward(Duration::from_secs(2 * 3600));
        assert_eq!(clock.now().since(before), Duration::from_secs(3600));
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }

    #[test]
    fn processes_share_time_but_not_the_calendar() {
        let one = SimClock::new();
        let other = one.beside();
        one.jump_forward(Duration::from_secs(60));
        one.advance(Duration::from_secs(1));
        assert_eq!(one.monotonic(), other.monotonic());
        assert_eq!(one.now().since(other.now()), Duration::from_secs(60));
    }
}
