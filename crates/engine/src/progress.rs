//! The one channel on which long work says how far it is.

/// Something that happened during long work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new phase began.
    Phase(&'static str),
    /// How many bytes the present phase will handle, as far as known.
    Expect(u64),
    /// That many more bytes are done.
    Advance(u64),
    /// What is being handled, such as a table.
    At(String),
    /// Something worth a line.
    Note(String),
    /// Something that the operator should act on.
    Warning(String),
}

/// Whoever wants to know: a progress bar, a log, a test.
pub trait Observer: Send + Sync {
    /// Called from any task; must return at once.
    fn event(&self, event: Event);
}

/// Nobody wants to know.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}
