//! Time: a wall clock for records, a monotonic one for durations.
//!
//! Clocks decide liveness and appear in records; no safety decision may follow from one (hazard F7).

use std::time::Duration;

/// Microseconds since 1970-01-01 00:00:00 UTC, the resolution of PostgreSQL's own timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This time plus `duration`; stays at the largest time instead of wrapping.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Two clocks: what the calendar says, and how much time went by.
pub trait Clock: Send + Sync {
    /// The calendar, which may jump in both directions.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary point; never goes backwards.
    fn monotonic(&self) -> Duration;
}
