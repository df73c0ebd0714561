//! Randomness.

/// A source of bytes that nobody can guess. In simulation: a seeded one.
pub trait Random: Send + Sync {
    /// Fills `bytes`. Never fails: a machine without randomness cannot seal anything, and stopping is right.
    fn fill(&self, bytes: &mut [u8]);
}
