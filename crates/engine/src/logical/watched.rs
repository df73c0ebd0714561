//! The archive that `pg_dump` writes, looked at while it comes. Everything is decoded, so that what is recorded is known to be
//! readable and its rows are counted; and the archive is taken apart into the files that the repository keeps.

use std::collections::HashMap;

use asof_postgres::archive::ArchiveError;
use asof_postgres::archive::stream::{ArchiveDecoder, Depth, Piece, Summary};
use asof_postgres::archive::toc::Toc;
use asof_world::World;

use super::members::{BLOCK_HEADER_LEN, file_of, names_of_data, with_data};
use super::shelve::Shelving;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

/// An archive that is being looked at.
pub(crate) struct Watched {
    world: World,
    decoder: Option<ArchiveDecoder>,
    /// Where the next bytes begin; the decoder's own position waits for headers that are not complete.
    offset: u64,
    /// The position behind the table of contents.
    toc_end: Option<u64>,
    /// What the data of each entry is for people, once the table of contents is complete.
    names: HashMap<i32, String>,
    news: News,
}

/// What nobody was told yet.
#[derive(Default)]
struct News {
    /// Decompressed bytes of data.
    bytes: u64,
    /// The table whose data began last.
    table: Option<String>,
}

/// Where in the stream something begins or ends.
enum Mark {
    /// The table of contents ends.
    TocEnds(u64),
    /// The data of an entry begins, behind the header of its block.
    DataBegins(i32, u64),
    /// It is complete.
    DataEnds(u64),
}

impl Watched {
    pub(crate) fn new(world: &World, depth: Depth) -> Self {
        Self {
            world: world.clone(),
            decoder: Some(ArchiveDecoder::new(depth)),
            offset: 0,
            toc_end: None,
            names: HashMap::new(),
            news: News::default(),
        }
    }

    fn decoder(&self) -> &ArchiveDecoder {
        self.decoder.as_ref().expect("one piece is looked at at a time")
    }

    /// The table of contents, as soon as it is complete.
    pub(crate) fn toc(&self) -> Option<&Toc> {
        self.decoder().toc()
    }

    /// The position behind the table of contents, as soon as it is complete.
    pub(crate) fn toc_end(&self) -> Option<u64> {
        self.toc_end
    }

    /// Says how far it is.
    pub(crate) fn tell(&mut self, observer: &dyn Observer) {
        let News { bytes, table } = std::mem::take(&mut self.news);
        observer.event(Event::Advance(bytes));
        table.into_iter().for_each(|table| observer.event(Event::At(table)));
    }

    /// Looks at the next bytes, and gives them back.
    pub(crate) async fn look(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        Ok(self.marks(bytes).await?.0)
    }

    async fn marks(&mut self, bytes: Vec<u8>) -> Result<(Vec<u8>, Vec<Mark>)> {
        let mut decoder = self.decoder.take().expect("one piece is looked at at a time");
        let work = move || {
            let (mut marks, mut plain) = (Vec::new(), 0);
            let result = decoder.push(&bytes, &mut |piece| match piece {
                Piece::Toc { end, .. } => marks.push(Mark::TocEnds(end)),
                Piece::DataStart { dump_id, at } => marks.push(Mark::DataBegins(dump_id, at + BLOCK_HEADER_LEN)),
                Piece::DataEnd(block) => marks.push(Mark::DataEnds(block.range.end)),
                Piece::Data(data) => plain += data.len() as u64,
                Piece::LargeObjectStart { .. } => {}
            });
            (decoder, bytes, marks, plain, result)
        };
        let (decoder, bytes, marks, plain, result) = self.world.compute(work).await;
        self.decoder = Some(decoder);
        self.offset += bytes.len() as u64;
        result.map_err(unreadable)?;
        self.news.bytes += plain;
        for mark in &marks {
            match mark {
                Mark::TocEnds(end) => {
                    self.toc_end = Some(*end);
                    let toc = self.toc().expect("it is complete");
                    self.names = names_of_data(toc);
                }
                Mark::DataBegins(entry, _) => self.news.table = self.names.get(entry).cloned(),
                Mark::DataEnds(_) => {}
            }
        }
        Ok((bytes, marks))
    }

    /// What the archive was.
    ///
    /// # Errors
    /// `Damaged`, unless it ended with everything that its table of contents promises.
    pub(crate) fn finish(self) -> Result<Summary> {
        self.decoder.expect("one piece is looked at at a time").finish().map_err(unreadable)
    }
}

pub(crate) fn unreadable(error: ArchiveError) -> Error {
    let mut what = format!("the archive is not whole: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        what = format!("{what}: {error}");
        cause = error.source();
    }
    Error::damaged(what, "dump again, or take another dump")
}

/// An archive that is being stored, its data in one file for each entry.
pub(crate) struct Stored {
    pub(crate) watched: Watched,
    pub(crate) shelving: Shelving,
    /// The bytes of the table of contents.
    pub(crate) toc: Vec<u8>,
    /// The files of the data, by entry.
    files: HashMap<i32, String>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    InToc,
    Between,
    InFile,
}

impl Stored {
    pub(crate) fn new(world: &World, shelving: Shelving) -> Self {
        let watched = Watched::new(world, Depth::Content);
        Self { watched, shelving, toc: Vec::new(), files: HashMap::new(), state: State::InToc }
    }

    /// Looks at the next bytes and stores them. Gives them back.
    pub(crate) async fn take(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let from = self.watched.offset;
        let (bytes, marks) = self.watched.marks(bytes).await?;
        let mut done = 0;
        for mark in marks {
            let (Mark::TocEnds(at) | Mark::DataBegins(_, at) | Mark::DataEnds(at)) = mark;
            let cut = usize::try_from(at - from).expect("a mark lies in its piece");
            self.put(&bytes[done..cut]).await?;
            done = cut;
            match mark {
                Mark::TocEnds(_) => {
                    let toc = self.watched.toc().expect("it is complete");
                    self.files = with_data(toc).map(|entry| (entry.dump_id, file_of(entry))).collect();
                    self.state = State::Between;
                }
                Mark::DataBegins(entry, _) => {
                    self.shelving.begin(&self.files[&entry]);
                    self.state = State::InFile;
                }
                Mark::DataEnds(_) => {
                    self.shelving.end().await?;
                    self.state = State::Between;
                }
            }
        }
        self.put(&bytes[done..]).await?;
        Ok(bytes)
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<()> {
        match self.state {
            State::InToc => self.toc.extend_from_slice(bytes),
            State::InFile => self.shelving.write(bytes).await?,
            // The header of a block says nothing that the table of contents does not.
            State::Between => {}
        }
        Ok(())
    }
}
