//! What clients were told, on a disk that nothing else of a round is on, and the clients that are told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asof_engine::server::Server as Link;
use asof_world::World;

/// Far more than a client commits in a round; also which numbers are whose.
const PER_CLIENT: u32 = 1_000_000;

/// A commit that a client was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) number: u32,
    /// When, since the same point for all.
    pub(crate) at: Duration,
}

/// The ledger: a client that entered a commit finds it there whatever ends.
pub(crate) struct Book {
    path: PathBuf,
    waiting: Mutex<Vec<Acknowledged>>,
    file: Mutex<File>,
    entered: AtomicUsize,
    /// Commits that returned with a warning: they are committed there, and only there, and not entered.
    warned: AtomicUsize,
}

impl Book {
    #[expect(clippy::disallowed_methods, reason = "the ledger lies on a real disk, whatever the world of a round does")]
    pub(crate) fn new(path: &Path) -> Arc<Self> {
        let file = Mutex::new(File::create_new(path).expect("the ledger is new"));
        let (waiting, entered, warned) = (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { path: path.to_owned(), waiting, file, entered, warned })
    }

    /// Returns when the commit is on the disk. Whoever gets the file first writes for all who wait.
    fn enter(&self, commit: Acknowledged) {
        self.waiting.lock().expect("no holder panics").push(commit);
        let mut file = self.file.lock().expect("no holder panics");
        let commits = std::mem::take(&mut *self.waiting.lock().expect("no holder panics"));
        if commits.is_empty() {
            return;
        }
        let lines: String = commits.iter().map(|it| format!("{} {}\n", it.number, it.at.as_micros())).collect();
        file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).expect("the ledger is written");
        self.entered.fetch_add(commits.len(), Ordering::Relaxed);
    }

    /// How many commits are in it.
    pub(crate) fn len(&self) -> usize {
        self.entered.load(Ordering::Relaxed)
    }

    /// How many commits returned with a warning.
    pub(crate) fn warned(&self) -> usize {
        self.warned.load(Ordering::Relaxed)
    }

    /// What is on the disk.
    #[expect(clippy::disallowed_methods, reason = "the ledger lies on a real disk, whatever the world of a round does")]
    pub(crate) fn read(&self) -> Vec<Acknowledged> {
        let text = std::fs::read_to_string(&self.path).expect("the ledger can be read");
        text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("not a line of a ledger: {line}"))).collect()
    }
}

fn parse(line: &str) -> Option<Acknowledged> {
    let (number, at) = line.split_once(' ')?;
    Some(Acknowledged { number: number.parse().ok()?, at: Duration::from_micros(at.parse().ok()?) })
}

/// Commits number after number until the server is gone, and enters what it is told.
pub(crate) async fn client(world: World, link: Link, first: u32, book: Arc<Book>) {
    let Ok(mut connection) = link.connect().await else { return };
    for number in first.. {
        let committed = connection.execute(&format!("INSERT INTO public.ledger VALUES ({number})")).await;
        let at = world.monotonic();
        if committed.is_err() {
            return;
        }
        if connection.take_notices().iter().any(|notice| notice.severity == "WARNING") {
            book.warned.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let book = book.clone();
        world.blocking(move || book.enter(Acknowledged { number, at })).await;
    }
}

/// The first number of a client.
pub(crate) fn first_of(client: u32) -> u32 {
    1 + client * PER_CLIENT
}

/// What of a ledger is not `there`.
pub(crate) fn lost(ledger: &[Acknowledged], there: &BTreeSet<u32>) -> Vec<Acknowledged> {
    ledger.iter().filter(|commit| !there.contains(&commit.number)).copied().collect()
}

/// Whether every client lost its last commits and no earlier one.
pub(crate) fn is_suffix(lost: &[Acknowledged], there: &BTreeSet<u32>) -> bool {
    let mut last_kept = BTreeMap::new();
    for number in there {
        last_kept.insert((number - 1) / PER_CLIENT, *number);
    }
    lost.iter()
        .all(|commit| last_kept.get(&((commit.number - 1) / PER_CLIENT)).is_none_or(|last| *last < commit.number))
}

#[test]
fn a_loss_in_the_middle_is_no_suffix() {
    let at = Duration::ZERO;
    let ledger = [1, 2, 3, PER_CLIENT + 1].map(|number| Acknowledged { number, at });
    let check = |there: &[u32], suffix: bool| {
        let there = there.iter().copied().collect();
        assert_eq!(is_suffix(&lost(&ledger, &there), &there), suffix, "{there:?}");
    };
    check(&[1, 2, 3, PER_CLIENT + 1], true);
    check(&[1, 2], true);
    check(&[PER_CLIENT + 1], true);
    check(&[1, 3, PER_CLIENT + 1], false);
}
