//! Brings what a spool holds into the repository, run after run, for as long as the receiver lives.
//!
//! A store that does not answer is asked again for ever; the run then begins anew with the oldest file, so nothing but files has
//! to be remembered. What can never be stored, because the repository holds something else, ends the receiver.

use std::sync::Arc;
use std::time::Duration;

use asof_postgres::lsn::Lsn;

use super::ingest::Ingest;
use super::receiver::{describe, is_transient};
use super::spool::{Next, Spool, SpoolFile};
use super::stream::{StreamProgress, StreamSettings, keep_house};
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};
use crate::target::history_of;

/// How often a change is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a store is left alone that did not answer.
const WAIT: Duration = Duration::from_secs(2);

/// Runs until the spool is closed and everything in it is stored, or cannot be.
pub(super) async fn run(
    settings: StreamSettings,
    spool: Arc<Spool>,
    progress: Arc<StreamProgress>,
    observer: Arc<dyn Observer>,
) {
    let world = settings.shelf.world.clone();
    loop {
        let Some(oldest) = spool.oldest() else {
            if spool.is_closed() {
                return;
            }
            world.sleep(LOOK_EVERY).await;
            continue;
        };
        match forward(&settings, &spool, oldest, &progress).await {
            Ok(()) => {}
            Err(error) if is_transient(&error) => {
                let what = format!("{}; WAL stays in the spool {}", describe(&error), spool.directory().display());
                observer.event(Event::Warning(what));
                let until = world.monotonic() + WAIT;
                while world.monotonic() < until && !spool.is_closed() {
                    world.sleep(LOOK_EVERY).await;
                }
                if spool.is_closed() {
                    return;
                }
            }
            Err(error) => return spool.fail(error),
        }
    }
}

/// Brings the run that begins with `file` into the repository.
async fn forward(
    settings: &StreamSettings,
    spool: &Arc<Spool>,
    mut file: SpoolFile,
    progress: &StreamProgress,
) -> Result<()> {
    let (shelf, world) = (&settings.shelf, &settings.shelf.world);
    let history = history_of(shelf, file.timeline).await?;
    let (shape, size) = (settings.constants.shape(history), settings.constants.stored_segment());
    let mut ingest = Ingest::new(shelf.clone(), shape, file.timeline, file.start)?.joined().await?;
    let (mut offset, mut flushed) = (0, world.monotonic());
    loop {
        spool.observed(file.run).into_iter().for_each(|seen| ingest.observe(seen));
        match spool.next(file, offset, ingest.received()).await? {
            Next::Wal(bytes, next) => {
                ingest.take(ingest.received(), &bytes).await?;
                offset = next;
            }
            Next::File(next) if next.start == ingest.received() => (file, offset) = (next, 0),
            Next::File(next) => {
                let (end, place) = (ingest.received(), spool.directory().display());
                let what = format!("the spool {place} has no WAL between {end} and {}", next.start);
                return Err(Error::damaged(
                    what,
                    "move its files away; the receiver then goes on where the repository ends",
                ));
            }
            Next::Later => {
                keep_house(settings, &mut ingest, progress).await?;
                world.sleep(LOOK_EVERY).await;
            }
            Next::End => {
                ingest.flush().await?;
                keep_house(settings, &mut ingest, progress).await?;
                progress.publish_stored(ingest.durable());
                return spool.remove(file.run, ingest.received()).await;
            }
        }
        if world.monotonic().saturating_sub(flushed) >= spool.upload_every() {
            ingest.flush().await?;
            flushed = world.monotonic();
        }
        progress.publish_stored(ingest.durable());
        spool.remove(file.run, Lsn(ingest.durable().0 / size * size)).await?;
    }
}
