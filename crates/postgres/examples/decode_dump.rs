//! Decodes a dump that `pg_dump` wrote (custom format or plain SQL), and says how fast: `decode_dump <file> [structure]`.
//!
//! The file is read into memory first, because the decoder is what is measured.

// A program for people who work on the decoders: it reads files and the clock itself.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

use asof_postgres::archive::plain::PlainScanner;
use asof_postgres::archive::sniff::{Kind, SNIFF_BYTES};
use asof_postgres::archive::stream::{ArchiveDecoder, Depth, Piece};
use std::error::Error;
use std::time::Instant;

const PIECE_BYTES: usize = 256 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let bytes = std::fs::read(arguments.next().ok_or("which file?")?)?;
    let depth = if arguments.next().as_deref() == Some("structure") { Depth::Structure } else { Depth::Content };
    let started = Instant::now();
    let (rows, plain_bytes) = match Kind::of(&bytes[..bytes.len().min(SNIFF_BYTES)]) {
        Kind::Custom => archive(&bytes, depth)?,
        Kind::PlainSql => script(&bytes),
        other => return Err(format!("{other:?} is not read here").into()),
    };
    let seconds = started.elapsed().as_secs_f64();
    let speed = |bytes: u64| bytes as f64 / seconds / 1e9;
    let length = bytes.len() as u64;
    println!("{length} bytes with {rows} rows in {seconds:.3} s: {:.2} GB/s of the file", speed(length));
    println!("{plain_bytes} bytes of data handed on: {:.2} GB/s", speed(plain_bytes));
    Ok(())
}

fn archive(bytes: &[u8], depth: Depth) -> Result<(u64, u64), Box<dyn Error>> {
    let (mut decoder, mut handed_on) = (ArchiveDecoder::new(depth), 0);
    for piece in bytes.chunks(PIECE_BYTES) {
        decoder.push(piece, &mut |piece| {
            if let Piece::Data(data) = piece {
                handed_on += data.len() as u64;
            }
        })?;
    }
    let rows = decoder.finish()?.blocks.iter().filter_map(|block| block.rows).sum();
    Ok((rows, handed_on))
}

fn script(bytes: &[u8]) -> (u64, u64) {
    let mut scanner = PlainScanner::new();
    bytes.chunks(PIECE_BYTES).for_each(|piece| scanner.push(piece));
    let summary = scanner.finish();
    (summary.tables.iter().map(|table| table.rows).sum(), 0)
}
