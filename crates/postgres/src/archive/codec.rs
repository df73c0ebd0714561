//! Decompression of what comes in pieces.
//!
//! Custom-format archives compress each table and each large object by itself, as a zlib stream (`compress_gzip.c`), LZ4 frames
//! (`compress_lz4.c`) or Zstandard frames (`compress_zstd.c`); the files of a directory have the same frames, or gzip. A stream that does not come to
//! its end is an error here, also where `pg_restore` would not notice (LZ4 and Zstandard).

use super::{Compression, DataError};
use flate2::{Decompress, FlushDecompress, Status};
use lz4_flex::frame::FrameDecoder;
use std::io::{self, BufRead, Read};
use zstd::stream::raw::{Decoder as ZstdDecoder, Operation};

/// What a decompressor writes into before it is handed on.
const OUTPUT_BYTES: usize = 128 << 10;
/// The largest window that zlib has.
const WINDOW_BITS: u8 = 15;

/// Where the data is: deflate comes in two wrappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// Chunks of a custom-format archive.
    Archive,
    /// A file of a directory.
    File,
}

/// One compressed stream after another.
pub struct Decompressor {
    engine: Engine,
    output: Vec<u8>,
    state: State,
}

enum Engine {
    None,
    Deflate { inflate: Box<Decompress>, wrapping: Wrapping },
    Lz4(Box<Lz4>),
    Zstd(ZstdDecoder<'static>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not one byte came.
    Nothing,
    Inside,
    /// At the end of a frame; another may follow.
    Complete,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decompressor({})", self.compression())
    }
}

impl Decompressor {
    /// Begins a stream.
    ///
    /// # Errors
    /// When the library cannot be set up.
    pub fn new(compression: Compression, wrapping: Wrapping) -> Result<Self, DataError> {
        let engine = match compression {
            Compression::None => Engine::None,
            Compression::Gzip => Engine::Deflate { inflate: Box::new(inflate(wrapping)), wrapping },
            Compression::Lz4 => Engine::Lz4(Box::default()),
            Compression::Zstd => Engine::Zstd(ZstdDecoder::new().map_err(|error| refused(compression, error))?),
        };
        let output = if compression == Compression::None { Vec::new() } else { vec![0; OUTPUT_BYTES] };
        Ok(Self { engine, output, state: State::Nothing })
    }

    /// What the stream is compressed by.
    #[must_use]
    pub fn compression(&self) -> Compression {
        match self.engine {
            Engine::None => Compression::None,
            Engine::Deflate { .. } => Compression::Gzip,
            Engine::Lz4(_) => Compression::Lz4,
            Engine::Zstd(_) => Compression::Zstd,
        }
    }

    /// Hands on what the next bytes decompress to.
    #[inline]
    pub fn push(&mut self, input: &[u8], out: &mut impl FnMut(&[u8])) -> Result<(), DataError> {
        if matches!(self.engine, Engine::None) {
            out(input);
            return Ok(());
        }
        self.decompress(input, out)
    }

    fn decompress(&mut self, mut input: &[u8], out: &mut impl FnMut(&[u8])) -> Result<(), DataError> {
        let compression = self.compression();
        while !input.is_empty() {
            if self.state == State::Complete {
                self.next_frame()?;
            }
            self.state = State::Inside;
            let (used, complete) = match &mut self.engine {
                Engine::None => return Ok(()),
                Engine::Deflate { inflate, .. } => inflate_some(inflate, input, &mut self.output, out)?,
                Engine::Zstd(decoder) => unzstd_some(decoder, input, &mut self.output, out)?,
                Engine::Lz4(decoder) => decoder.decompress(input, out).map_err(|error| refused(compression, error))?,
            };
            if complete {
                self.state = State::Complete;
            }
            input = input.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// Several frames in a row are one stream, except in zlib's own wrapping.
    fn next_frame(&mut self) -> Result<(), DataError> {
        match &self.engine {
            Engine::Deflate { wrapping: Wrapping::Archive, .. } => Err(DataError::Trailing(Compression::Gzip)),
            _ => self.reset(),
        }
    }

    /// Says whether the stream came to its end, and makes ready for another.
    pub fn finish(&mut self) -> Result<(), DataError> {
        let compression = self.compression();
        let whole = match self.state {
            State::Complete => true,
            State::Inside => false,
            // Nothing at all is what the LZ4 writer makes of an empty large object; zlib never writes nothing.
            State::Nothing => compression != Compression::Gzip,
        };
        self.reset()?;
        if whole { Ok(()) } else { Err(DataError::CutOff(compression)) }
    }

    fn reset(&mut self) -> Result<(), DataError> {
        match &mut self.engine {
            Engine::None => {}
            Engine::Deflate { inflate, wrapping: Wrapping::Archive } => inflate.reset(true),
            Engine::Deflate { inflate: old, wrapping } => **old = inflate(*wrapping),
            Engine::Lz4(decoder) => **decoder = Lz4::default(),
            Engine::Zstd(decoder) => decoder.reinit().map_err(|error| refused(Compression::Zstd, error))?,
        }
        self.state = State::Nothing;
        Ok(())
    }
}

fn inflate(wrapping: Wrapping) -> Decompress {
    match wrapping {
        Wrapping::Archive => Decompress::new(true),
        Wrapping::File => Decompress::new_gzip(WINDOW_BITS),
    }
}

fn refused(compression: Compression, error: impl std::fmt::Display) -> DataError {
    DataError::Codec { compression, reason: error.to_string() }
}

/// How many bytes were used, and whether the stream is complete.
type Progress = (usize, bool);

fn inflate_some(
    inflate: &mut Decompress,
    input: &[u8],
    output: &mut [u8],
    out: &mut impl FnMut(&[u8]),
) -> Result<Progress, DataError> {
    let mut used = 0;
    loop {
        let before = (inflate.total_in(), inflate.total_out());
        let status = inflate
            .decompress(&input[used..], output, FlushDecompress::None)
            .map_err(|error| refused(Compression::Gzip, error))?;
        let read = usize::try_from(inflate.total_in() - before.0).unwrap_or_default();
        let written = usize::try_from(inflate.total_out() - before.1).unwrap_or_default();
        used += read;
        out(&output[..written]);
        match status {
            Status::StreamEnd => return Ok((used, true)),
            // A full output buffer may mean that there is more inside.
            Status::Ok | Status::BufError if written == output.len() => {}
            Status::Ok | Status::BufError if used == input.len() => return Ok((used, false)),
            Status::Ok | Status::BufError if read == 0 && written == 0 => {
                return Err(refused(Compression::Gzip, "no progress"));
            }
            Status::Ok | Status::BufError => {}
        }
    }
}

fn unzstd_some(
    decoder: &mut ZstdDecoder<'static>,
    input: &[u8],
    output: &mut [u8],
    out: &mut impl FnMut(&[u8]),
) -> Result<Progress, DataError> {
    let mut used = 0;
    loop {
        let status =
            decoder.run_on_buffers(&input[used..], output).map_err(|error| refused(Compression::Zstd, error))?;
        used += status.bytes_read;
        out(&output[..status.bytes_written]);
        if status.remaining == 0 {
            return Ok((used, true));
        }
        if status.bytes_written < output.len() && used == input.len() {
            return Ok((used, false));
        }
    }
}

/// The frame decoder of `lz4_flex` pulls from a reader and cannot go on after one that ran dry. So whole parts of a frame (its
/// header, a block, its end) are gathered first, and the decoder is asked only when the next part is there.
#[derive(Default)]
struct Lz4 {
    decoder: Option<FrameDecoder<Queue>>,
    /// The next part, as far as it came.
    part: Vec<u8>,
    header: Option<Lz4Header>,
}

#[derive(Clone, Copy)]
struct Lz4Header {
    block_checksums: bool,
    content_checksum: bool,
}

/// `lz4_Frame_format.md`: magic number, FLG, BD.
const LZ4_SHORTEST_HEADER: usize = 7;
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
const LZ4_CHECKSUM_BYTES: usize = 4;
/// The largest block of the format.
const LZ4_MAX_BLOCK_BYTES: usize = 4 << 20;

impl Lz4 {
    /// Up to the end of a frame.
    fn decompress(&mut self, input: &[u8], out: &mut impl FnMut(&[u8])) -> io::Result<Progress> {
        let mut used = 0;
        loop {
            let wanted = self.part_bytes()?;
            let taken = (wanted - self.part.len()).min(input.len() - used);
            self.part.extend_from_slice(&input[used..used + taken]);
            used += taken;
            if self.part.len() < wanted {
                return Ok((used, false));
            }
            // The length of a part may follow from its first bytes.
            if self.part_bytes()? > self.part.len() {
                continue;
            }
            if self.take_part(out)? {
                return Ok((used, true));
            }
        }
    }

    /// How long the next part is, as far as one can tell.
    fn part_bytes(&self) -> io::Result<usize> {
        let Some(header) = self.header else {
            return match self.part.get(..LZ4_SHORTEST_HEADER) {
                None => Ok(LZ4_SHORTEST_HEADER),
                Some(start) if !start.starts_with(&LZ4_MAGIC) => Err(io::Error::other("there is no LZ4 frame")),
                // FLG: bit 3, the content's length stands here; bit 0, a dictionary's id does.
                Some(start) => {
                    let (content_size, dictionary) = (start[4] & 8 != 0, start[4] & 1 != 0);
                    Ok(LZ4_SHORTEST_HEADER + if content_size { 8 } else { 0 } + if dictionary { 4 } else { 0 })
                }
            };
        };
        let Some(size) = self.part.first_chunk::<4>() else { return Ok(4) };
        let size = u32::from_le_bytes(*size);
        if size == 0 {
            return Ok(4 + if header.content_checksum { LZ4_CHECKSUM_BYTES } else { 0 });
        }
        // The highest bit says that the block is not compressed.
        let length = usize::try_from(size & 0x7fff_ffff).unwrap_or(usize::MAX);
        if length > LZ4_MAX_BLOCK_BYTES {
            return Err(io::Error::other("an LZ4 block is too large"));
        }
        Ok(4 + length + if header.block_checksums { LZ4_CHECKSUM_BYTES } else { 0 })
    }

    /// Gives a whole part to the decoder; `true` at the end of the frame.
    fn take_part(&mut self, out: &mut impl FnMut(&[u8])) -> io::Result<bool> {
        if self.header.is_none() {
            let flags = self.part[4];
            self.header = Some(Lz4Header { block_checksums: flags & 16 != 0, content_checksum: flags & 4 != 0 });
            let queue = Queue { bytes: std::mem::take(&mut self.part), at: 0 };
            self.decoder = Some(FrameDecoder::new(queue));
            return Ok(false);
        }
        let end = self.part.starts_with(&[0; 4]);
        let decoder = self.decoder.as_mut().ok_or_else(|| io::Error::other("a block without a frame"))?;
        decoder.get_mut().append(&mut self.part);
        let plain = decoder.fill_buf()?;
        let length = plain.len();
        out(plain);
        decoder.consume(length);
        // An empty block in the middle would look like the end to the decoder's reader, but not to us.
        Ok(end)
    }
}

/// What the decoder reads from.
struct Queue {
    bytes: Vec<u8>,
    at: usize,
}

impl Queue {
    fn append(&mut self, part: &mut Vec<u8>) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.append(part);
    }
}

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    const ALL: [(Compression, Wrapping); 4] = [
        (Compression::Gzip, Wrapping::Archive),
        (Compression::Gzip, Wrapping::File),
        (Compression::Lz4, Wrapping::File),
        (Compression::Zstd, Wrapping::File),
    ];

    /// Compresses as `pg_dump` does; LZ4 frames also with the checksums that it leaves out.
    pub(in crate::archive) fn compress(data: &[u8], compression: Compression, wrapping: Wrapping) -> Vec<u8> {
        let fast = flate2::Compression::fast();
        match (compression, wrapping) {
            (Compression::None, _) => data.to_vec(),
            (Compression::Gzip, Wrapping::Archive) => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), fast);
                encoder.write_all(data).expect("memory");
                encoder.finish().expect("memory")
            }
            (Compression::Gzip, Wrapping::File) => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), fast);
                encoder.write_all(data).expect("memory");
                encoder.finish().expect("memory")
            }
            (Compression::Lz4, _) => {
                use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
                let odd = data.len() % 2 == 1;
                let info = FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB);
                let info = info.content_checksum(odd).block_checksums(odd);
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(data).expect("memory");
                encoder.finish().expect("memory")
            }
            (Compression::Zstd, _) => zstd::stream::encode_all(data, 3).expect("memory"),
        }
    }

    fn decompress(decoder: &mut Decompressor, bytes: &[u8], piece: usize) -> Result<Vec<u8>, DataError> {
        let mut plain = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.push(piece, &mut |data| plain.extend_from_slice(data))?;
        }
        decoder.finish().map(|()| plain)
    }

    fn decoder((compression, wrapping): (Compression, Wrapping)) -> Decompressor {
        Decompressor::new(compression, wrapping).expect("a decoder")
    }

    /// Compressible in some places only, and longer than blocks and windows.
    fn data(length: usize) -> Vec<u8> {
        let mut seed = 1_u32;
        let byte = |at: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if (at / 5000).is_multiple_of(2) { b'a' } else { seed.to_le_bytes()[3] }
        };
        (0..length).map(byte).collect()
    }

    #[test]
    fn streams_come_back_in_whatever_pieces() {
        for codec in ALL {
            let mut decoder = decoder(codec);
            for length in [0, 1, 4999, 700_001, 700_002] {
                let (plain, piece) = (data(length), if length > 5000 { 1000 } else { 1 });
                let bytes = compress(&plain, codec.0, codec.1);
                for piece in [piece, 65_537, bytes.len()] {
                    assert!(decompress(&mut decoder, &bytes, piece).as_ref() == Ok(&plain), "{codec:?} {length}");
                }
            }
        }
    }

    #[test]
    fn a_stream_without_its_end_is_refused_at_every_length() {
        for codec in ALL {
            let bytes = compress(&data(3000), codec.0, codec.1);
            let mut decoder = decoder(codec);
            for length in 1..bytes.len() {
                assert_eq!(
                    decompress(&mut decoder, &bytes[..length], 100),
                    Err(DataError::CutOff(codec.0)),
                    "{codec:?}"
                );
            }
            // Only the writer of zlib always writes something.
            let nothing = decompress(&mut decoder, &[], 1);
            let refused = Err(DataError::CutOff(Compression::Gzip));
            assert_eq!(nothing, if codec.0 == Compression::Gzip { refused } else { Ok(Vec::new()) });
        }
    }

    #[test]
    fn what_follows_a_stream_is_another_one_or_refused() {
        for codec in ALL {
            let bytes = compress(b"one", codec.0, codec.1);
            let twice = decompress(&mut decoder(codec), &bytes.repeat(2), 7);
            if codec.1 == Wrapping::Archive {
                assert_eq!(twice, Err(DataError::Trailing(Compression::Gzip)));
            } else {
                assert_eq!(twice.as_deref(), Ok(&b"oneone"[..]), "{codec:?}");
            }
            let rubbish = decompress(&mut decoder(codec), &[&bytes[..], b"rubbish"].concat(), 7);
            assert!(rubbish.is_err(), "{codec:?}");
        }
    }

    #[test]
    fn no_change_of_bytes_panics() {
        for codec in ALL {
            for length in [100, 101, 150_001] {
                let bytes = compress(&data(length), codec.0, codec.1);
                for bit in 0..bytes.len() * 8 {
                    if bit < 400 || bit % 4001 == 0 {
                        let mut torn = bytes.clone();
                        torn[bit / 8] ^= 1 << (bit % 8);
                        let _ = decompress(&mut decoder(codec), &torn, 1000);
                    }
                }
            }
        }
    }
}
