//! A dump given to a program that reads it from a pipe.

use std::collections::HashMap;

use asof_postgres::archive::stream::{ArchiveDecoder, Depth, Piece};
use aws_lc_rs::digest::{Context as Sha, SHA256};
use bytes::Bytes;
use futures::future::join;

use super::dump::ended;
use super::members::names_of_data;
use super::origin::{Origin, Stream};
use super::program::{Input, Running};
use super::watched::unreadable;
use crate::error::Result;
use crate::progress::{Event, Observer};

/// What the program read, and what it remarked.
pub(super) async fn finished(running: Running, fed: Result<Option<u64>>) -> Result<(u64, Vec<String>)> {
    let (bytes, remarks) = ended(running, fed).await?;
    Ok((bytes.unwrap_or(0), remarks))
}

/// As [`feed`], for an archive that nobody has vouched for: where it is cut off or damaged is said better by us, and before the
/// program has its end, which it would commit.
pub(super) async fn feed_watched(
    origin: &Origin,
    input: &mut Input,
    stream: Stream,
    observer: &dyn Observer,
) -> Result<Option<u64>> {
    let (mut decoder, mut sha, mut behind) = (Some(ArchiveDecoder::new(Depth::Structure)), Sha::new(&SHA256), 0);
    let mut names = HashMap::new();
    feed(input, stream, observer, |piece| {
        let Some(bytes) = piece else {
            decoder.take().expect("it ends once").finish().map_err(unreadable)?;
            return origin.prove("data", &hex::encode(sha.clone().finish()));
        };
        let decoder = decoder.as_mut().expect("it has not ended");
        let (mut toc_end, had_toc, mut begun) = (None, decoder.toc().is_some(), None);
        let pushed = decoder.push(bytes, &mut |piece| match piece {
            Piece::Toc { toc, end } => {
                toc_end = Some(end);
                names = names_of_data(toc);
            }
            Piece::DataStart { dump_id, .. } => begun = Some(dump_id),
            _ => {}
        });
        pushed.map_err(unreadable)?;
        let table = begun.and_then(|entry| names.get(&entry));
        table.into_iter().for_each(|table| observer.event(Event::At(table.clone())));
        let in_toc = match toc_end {
            Some(end) => usize::try_from(end - behind).expect("it ends in this piece"),
            None if had_toc => 0,
            None => bytes.len(),
        };
        sha.update(&bytes[in_toc..]);
        behind += bytes.len() as u64;
        Ok(())
    })
    .await
}

/// Gives a program the dump. `look` sees each piece, and `None` behind the last, before the program has the last one. Nothing when
/// the program reads no further, which is no error here: its end says why.
pub(super) async fn feed(
    input: &mut Input,
    mut stream: Stream,
    observer: &dyn Observer,
    look: impl FnMut(Option<&[u8]>) -> Result<()>,
) -> Result<Option<u64>> {
    let first = stream.next().await?;
    feed_from(first, input, stream, observer, look).await
}

/// As [`feed`], the first piece being known.
pub(super) async fn feed_from(
    first: Option<Bytes>,
    input: &mut Input,
    mut stream: Stream,
    observer: &dyn Observer,
    mut look: impl FnMut(Option<&[u8]>) -> Result<()>,
) -> Result<Option<u64>> {
    // While one piece is written the one behind the next is read.
    let (mut held, mut piece, mut total) = (Bytes::new(), first, 0);
    loop {
        look(piece.as_deref())?;
        stream.news().into_iter().for_each(|table| observer.event(Event::At(table)));
        let len = held.len() as u64;
        let reading = async { if piece.is_some() { stream.next().await } else { Ok(None) } };
        let (next, taken) = join(reading, input.write(std::mem::take(&mut held))).await;
        if !taken? {
            return Ok(None);
        }
        total += len;
        observer.event(Event::Advance(len));
        match piece {
            Some(bytes) => held = bytes,
            None => return Ok(Some(total)),
        }
        piece = next?;
    }
}
