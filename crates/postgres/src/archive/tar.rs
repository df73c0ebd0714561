//! A tar archive as one stream of bytes, as far as `pg_dump` writes it.
//!
//! Members in order (`pg_backup_tar.c`, 9.0 to 18): `toc.dat`, the data files named as in a directory and never compressed (large objects in
//! `blob_<oid>.dat`, their list behind them), `restore.sql`, and at least one block of zeroes, which is the only end mark that any
//! format of `pg_dump` has. Headers are ustar (`tarCreateHeader` in `port/tar.c`): sizes are octal, or from 8 GiB on binary with
//! the first bit set.

use std::ops::Range;

const BLOCK_BYTES: usize = 512;
const SIZE: Range<usize> = 124..136;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const MAGIC: Range<usize> = 257..262;
const PREFIX: Range<usize> = 345..500;

/// The member with the table of contents, the first one.
pub const TOC_MEMBER: &str = "toc.dat";

/// A file in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name. `pg_dump` writes no paths; another tar may.
    pub name: String,
    /// Where its content is in the archive.
    pub range: Range<u64>,
}

/// What is met on the way, in this order.
#[derive(Debug)]
pub enum TarPiece<'a> {
    /// A file begins.
    Start(&'a Member),
    /// Some bytes of it. Never empty.
    Data(&'a [u8]),
    /// It is complete.
    End(&'a Member),
}

/// Why bytes are no tar archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The block is no header.
    #[error("at byte {0} of the tar archive there is no valid header")]
    Header(u64),
    /// A kind of member that `pg_dump` does not write: a directory, a link, an extension of another tar.
    #[error("{name} in the tar archive is not a plain file (type {kind:?})")]
    NotAFile {
        /// Its name.
        name: String,
        /// As written.
        kind: char,
    },
    /// It ends inside a member or a header.
    #[error("the tar archive ends after {0} bytes, in the middle")]
    CutOff(u64),
    /// It ends between two members.
    #[error("the tar archive ends after {0} bytes without its end mark: members may be missing")]
    NoEndMark(u64),
    /// Something follows the end mark.
    #[error("at byte {0} something follows the end mark of the tar archive")]
    Trailing(u64),
}

/// Whether a file that begins so is a tar archive: by its checksum, as `isValidTarHeader` decides.
#[must_use]
pub fn is_header(first_bytes: &[u8]) -> bool {
    first_bytes.first_chunk().is_some_and(is_valid)
}

fn is_valid(block: &[u8; BLOCK_BYTES]) -> bool {
    &block[MAGIC] == b"ustar" && octal(&block[CHECKSUM]) == Some(checksum(block))
}

/// The sum of all bytes, with blanks for the field itself.
fn checksum(block: &[u8; BLOCK_BYTES]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(block) - sum(&block[CHECKSUM]) + 8 * u64::from(b' ')
}

/// Digits up to a blank or a zero byte.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(digits.len());
    let digits = std::str::from_utf8(&digits[..end]).ok().filter(|digits| !digits.starts_with('+'))?;
    u64::from_str_radix(digits, 8).ok()
}

fn size(field: &[u8]) -> Option<u64> {
    match field.split_first() {
        // `print_tar_number`: base 256 behind a byte 0x80.
        Some((0x80, rest)) => {
            let (high, low) = rest.split_last_chunk::<8>()?;
            high.iter().all(|byte| *byte == 0).then(|| u64::from_be_bytes(*low)).filter(|size| *size < 1 << 62)
        }
        _ => octal(field),
    }
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Reads a tar archive in the pieces in which it comes.
#[derive(Debug)]
pub struct TarDecoder {
    position: u64,
    state: State,
    /// A block that did not come in one piece.
    block: Vec<u8>,
    member: Member,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    Data {
        left: u64,
    },
    Padding {
        left: u64,
    },
    /// Behind the first block of zeroes.
    End,
}

impl Default for TarDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl TarDecoder {
    /// Begins at the first byte of an archive.
    #[must_use]
    pub fn new() -> Self {
        let member = Member { name: String::new(), range: 0..0 };
        Self { position: 0, state: State::Header, block: Vec::with_capacity(BLOCK_BYTES), member }
    }

    /// How many bytes were taken.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes the next bytes. After an error the decoder must not be used any more.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(TarPiece<'_>)) -> Result<(), TarError> {
        while !bytes.is_empty() {
            match self.state {
                State::Header => {
                    let taken = (BLOCK_BYTES - self.block.len()).min(bytes.len());
                    self.block.extend_from_slice(take(&mut bytes, taken));
                    self.position += taken as u64;
                    if let Ok(block) = <&[u8; BLOCK_BYTES]>::try_from(self.block.as_slice()) {
                        self.state = header(block, self.position, &mut self.member)?;
                        self.block.clear();
                        if let State::Data { left } = self.state {
                            sink(TarPiece::Start(&self.member));
                            self.enter(left, sink);
                        }
                    }
                }
                State::Data { left } => {
                    let data = take(&mut bytes, at_most(left));
                    self.position += data.len() as u64;
                    sink(TarPiece::Data(data));
                    self.enter(left - data.len() as u64, sink);
                }
                State::Padding { left } => {
                    let skipped = take(&mut bytes, at_most(left)).len() as u64;
                    self.position += skipped;
                    self.pad(left - skipped);
                }
                State::End => {
                    if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
                        return Err(TarError::Trailing(self.position + at as u64));
                    }
                    self.position += bytes.len() as u64;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Goes on with so many bytes of data, or behind them.
    fn enter(&mut self, left: u64, sink: &mut impl FnMut(TarPiece<'_>)) {
        if left > 0 {
            self.state = State::Data { left };
            return;
        }
        sink(TarPiece::End(&self.member));
        self.pad(self.member.range.end.next_multiple_of(BLOCK_BYTES as u64) - self.member.range.end);
    }

    fn pad(&mut self, left: u64) {
        self.state = if left > 0 { State::Padding { left } } else { State::Header };
    }

    /// Says whether the archive has its end mark.
    pub fn finish(self) -> Result<(), TarError> {
        match self.state {
            State::End => Ok(()),
            State::Header if self.block.is_empty() => Err(TarError::NoEndMark(self.position)),
            State::Header | State::Data { .. } | State::Padding { .. } => Err(TarError::CutOff(self.position)),
        }
    }
}

fn at_most(left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX)
}

/// So many bytes from the front, or all.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count.min(bytes.len()));
    *bytes = rest;
    taken
}

/// Reads the header that ends at this position.
fn header(block: &[u8; BLOCK_BYTES], end: u64, member: &mut Member) -> Result<State, TarError> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(State::End);
    }
    let bad = TarError::Header(end - BLOCK_BYTES as u64);
    let Some(size) = size(&block[SIZE]).filter(|_| is_valid(block)) else { return Err(bad) };
    let (prefix, name) = (text(&block[PREFIX]), text(&block[..100]));
    let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
    if !matches!(block[TYPE], b'0' | 0) {
        return Err(TarError::NotAFile { name, kind: block[TYPE].into() });
    }
    *member = Member { name, range: end..end.checked_add(size).ok_or(bad)? };
    Ok(State::Data { left: size })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURES: [&[u8]; 3] = [
        include_bytes!("../../testdata/archive/item-15.tar"),
        include_bytes!("../../testdata/archive/item-16.tar"),
        include_bytes!("../../testdata/archive/item-18.tar"),
    ];

    type Files = Vec<(Member, Vec<u8>)>;

    fn read(bytes: &[u8], piece: usize) -> Result<Files, TarError> {
        let (mut decoder, mut files) = (TarDecoder::new(), Files::new());
        for bytes in bytes.chunks(piece) {
            decoder.push(bytes, &mut |piece| match piece {
                TarPiece::Start(member) => files.push((member.clone(), Vec::new())),
                TarPiece::Data(data) => files.last_mut().expect("a member").1.extend(data),
                TarPiece::End(member) => assert_eq!(member, &files.last().expect("a member").0),
            })?;
        }
        decoder.finish().map(|()| files)
    }

    #[test]
    fn members_are_found_in_whatever_pieces_they_come() {
        for bytes in FIXTURES {
            let files = read(bytes, bytes.len()).expect("valid");
            let names: Vec<&str> = files.iter().map(|(member, _)| member.name.as_str()).collect();
            assert_eq!((names[0], names[2]), (TOC_MEMBER, "restore.sql"));
            assert!(names[1].ends_with(".dat"), "{names:?}");
            for (member, content) in &files {
                let place = usize::try_from(member.range.start).expect("small");
                assert_eq!(content, &bytes[place..place + content.len()]);
                assert_eq!(member.range.end - member.range.start, content.len() as u64);
            }
            for piece in [1, 7, 511, 513] {
                assert_eq!(read(bytes, piece).as_ref(), Ok(&files));
            }
        }
    }

    #[test]
    fn a_tar_archive_that_was_cut_off_is_noticed_at_every_length() {
        for bytes in FIXTURES {
            let files = read(bytes, bytes.len()).expect("valid");
            let content_end = usize::try_from(files[2].0.range.end.next_multiple_of(512)).expect("small");
            for length in 0..content_end + BLOCK_BYTES {
                let error = read(&bytes[..length], 4096).expect_err("cut off");
                let expected = [TarError::CutOff(length as u64), TarError::NoEndMark(length as u64)];
                assert!(expected.contains(&error), "{error} at {length}");
            }
        }
    }

    #[test]
    fn sizes_of_8_gib_and_more_are_binary() {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&(9_u64 << 30).to_be_bytes());
        assert_eq!(size(&field), Some(9 << 30));
        assert_eq!(size(b"00000001750 "), Some(1000));
        assert_eq!(size(b"0000000175x "), None);
        field[1] = 1;
        assert_eq!(size(&field), None);
    }

    #[test]
    fn no_flipped_bit_panics() {
        for bytes in FIXTURES {
            for bit in 0..bytes.len() * 8 {
                // Every bit of the first header, and a share of the others.
                if bit < 4096 || bit % 61 == 0 {
                    let mut torn = bytes.to_vec();
                    torn[bit / 8] ^= 1 << (bit % 8);
                    let _ = read(&torn, 1000);
                }
            }
        }
    }
}
