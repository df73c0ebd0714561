//! A script that `pg_dump` or `pg_dumpall` writes, looked at while it comes: its rows are counted, and it has to come to its end.
//! One that is compressed (`--compress`) is looked at inside, and every frame of it has to be whole.

use asof_postgres::archive::Compression;
use asof_postgres::archive::DataError;
use asof_postgres::archive::codec::{Decompressor, Wrapping};
use asof_postgres::archive::plain::PlainScanner;
use asof_postgres::archive::sniff::Kind;
use asof_world::World;

use super::outcome::Contents;
use crate::error::{Error, Result};
use crate::progress::{Event, Observer};

/// A script that is being looked at.
pub(super) struct Script {
    world: World,
    inside: Option<Inside>,
}

struct Inside {
    scanner: PlainScanner,
    /// Chosen by the first bytes, whatever was asked for.
    decompressor: Option<Decompressor>,
    /// Bytes of SQL, of which nobody was told yet.
    news: u64,
}

impl Script {
    pub(super) fn new(world: &World) -> Self {
        let inside = Inside { scanner: PlainScanner::new(), decompressor: None, news: 0 };
        Self { world: world.clone(), inside: Some(inside) }
    }

    /// Looks at the next bytes, and gives them back.
    pub(super) async fn look(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let mut inside = self.inside.take().expect("one piece is looked at at a time");
        let work = move || {
            let looked = inside.push(&bytes);
            (inside, bytes, looked)
        };
        let (inside, bytes, looked) = self.world.compute(work).await;
        self.inside = Some(inside);
        looked.map_err(|error| not_whole(&error))?;
        Ok(bytes)
    }

    /// Says how far it is.
    pub(super) fn tell(&mut self, observer: &dyn Observer) {
        let inside = self.inside.as_mut().expect("one piece is looked at at a time");
        observer.event(Event::Advance(std::mem::take(&mut inside.news)));
    }

    /// What the script was.
    ///
    /// # Errors
    /// `Damaged` when it did not come to its end.
    pub(super) fn finish(self) -> Result<Contents> {
        let Inside { scanner, decompressor, .. } = self.inside.expect("one piece is looked at at a time");
        decompressor.map_or(Ok(()), |mut it| it.finish()).map_err(|error| not_whole(&error))?;
        Contents::of_script(scanner)
    }
}

impl Inside {
    fn push(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let decompressor = match &mut self.decompressor {
            Some(known) => known,
            unknown => unknown.insert(Decompressor::new(compression(bytes), Wrapping::File)?),
        };
        decompressor.push(bytes, &mut |plain| {
            self.news += plain.len() as u64;
            self.scanner.push(plain);
        })
    }
}

fn compression(first_bytes: &[u8]) -> Compression {
    match Kind::of(first_bytes) {
        Kind::Gzip => Compression::Gzip,
        Kind::Zstd => Compression::Zstd,
        Kind::Lz4 => Compression::Lz4,
        _ => Compression::None,
    }
}

fn not_whole(error: &DataError) -> Error {
    Error::damaged(format!("the script that came is not whole: {error}"), "nothing was kept: dump again")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SHOP: &[u8] = include_bytes!("../../../postgres/testdata/archive/shop-15.sql.dump");

    fn compressed(bytes: &[u8]) -> [Vec<u8>; 3] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).expect("memory");
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(bytes).expect("memory");
        let zstd = zstd::encode_all(bytes, 1).expect("memory");
        [gzip.finish().expect("memory"), lz4.finish().expect("memory"), zstd]
    }

    async fn looked(bytes: &[u8]) -> Result<Contents> {
        let mut script = Script::new(&World::real());
        for piece in bytes.chunks(100) {
            assert_eq!(script.look(piece.to_vec()).await?, piece);
        }
        script.finish()
    }

    #[tokio::test]
    async fn a_script_is_counted_however_it_is_compressed_and_refused_when_it_is_cut_off() {
        let rows = looked(SHOP).await.expect("it is whole").rows();
        assert_eq!(rows, Some(39));
        for whole in compressed(SHOP) {
            assert_eq!(looked(&whole).await.expect("it is whole").rows(), rows);
            for cut in [0, 1, 5, whole.len() / 2, whole.len() - 1] {
                assert!(looked(&whole[..cut]).await.is_err(), "{cut} of {} bytes", whole.len());
            }
        }
        for half in compressed(&SHOP[..SHOP.len() / 2]) {
            assert!(looked(&half).await.is_err(), "half of a script in whole frames");
        }
    }
}
