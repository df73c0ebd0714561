//! How the plaintext of a frame becomes fewer bytes: format.md, "Codecs".
//!
//! What a codec made is decoded and compared before anybody relies on it: compression libraries have corrupted backups
//! before (hazard F6). A frame that does not become smaller is stored as it is.

use zstd::bulk::{Compressor, Decompressor};

/// How a frame is coded. Ids are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// The codec with this id, or `None` for one that a newer version wrote.
    pub fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Codes frames; keeps its working memory between them.
pub struct Encoder {
    compressor: Compressor<'static>,
    decoder: Decoder,
    coded: Vec<u8>,
    check: Vec<u8>,
}

/// What became of one frame.
pub struct Coded<'a> {
    /// How it is coded.
    pub codec: Codec,
    /// The coded bytes.
    pub bytes: &'a [u8],
}

impl Encoder {
    /// An encoder with zstd level `level` (-7 to 22).
    pub fn new(level: i32) -> Self {
        let compressor = Compressor::new(level).expect("zstd allocates its working memory");
        Self { compressor, decoder: Decoder::new(), coded: Vec::new(), check: Vec::new() }
    }

    /// Codes `plain` and proves that it decodes to the same bytes.
    pub fn encode<'a>(&'a mut self, plain: &'a [u8]) -> Coded<'a> {
        let bound = zstd::zstd_safe::compress_bound(plain.len());
        self.coded.resize(bound, 0);
        let worth = |len: &usize| *len < plain.len();
        let Some(len) = self.compressor.compress_to_buffer(plain, &mut self.coded).ok().filter(worth) else {
            return Coded { codec: Codec::Raw, bytes: plain };
        };
        self.prove(plain, len)
    }

    /// What was coded into `len` bytes is only used when it decodes to what it was made from.
    fn prove<'a>(&'a mut self, plain: &'a [u8], len: usize) -> Coded<'a> {
        self.check.resize(plain.len(), 0);
        let decoded = self.decoder.zstd(&self.coded[..len], &mut self.check);
        if (!decoded || self.check != plain) && !asof_world::planted("f6") {
            return Coded { codec: Codec::Raw, bytes: plain };
        }
        Coded { codec: Codec::Zstd, bytes: &self.coded[..len] }
    }
}

/// Decodes frames; keeps its working memory between them.
pub struct Decoder(Decompressor<'static>);

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder.
    pub fn new() -> Self {
        Self(Decompressor::new().expect("zstd allocates its working memory"))
    }

    /// Decodes into all of `plain`; false when the bytes are not a frame of exactly that length.
    #[must_use]
    pub fn decode(&mut self, codec: Codec, coded: &[u8], plain: &mut [u8]) -> bool {
        match codec {
            Codec::Raw if coded.len() == plain.len() => {
                plain.copy_from_slice(coded);
                true
            }
            Codec::Raw => false,
            Codec::Zstd => self.zstd(coded, plain),
        }
    }

    fn zstd(&mut self, coded: &[u8], plain: &mut [u8]) -> bool {
        self.0.decompress_to_buffer(coded, plain).is_ok_and(|len| len == plain.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_coded_decodes_to_the_same_bytes() {
        let mut encoder = Encoder::new(1);
        let zeros = vec![0u8; 9000];
        let noise: Vec<u8> =
            (0..9000u64).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
        for (plain, codec) in [(&zeros, Codec::Zstd), (&noise, Codec::Raw)] {
            let coded = encoder.encode(plain);
            assert_eq!(coded.codec, codec);
            let mut back = vec![1; plain.len()];
            assert!(Decoder::new().decode(coded.codec, coded.bytes, &mut back));
            assert_eq!(&back, plain);
        }
    }

    #[test]
    fn hz_f6_a_bit_that_the_compressor_got_wrong_is_never_stored() {
        let plain: Vec<u8> = (0..3000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let mut encoder = Encoder::new(1);
        let coded = encoder.encode(&plain).bytes.to_vec();
        for bit in 0..coded.len() * 8 {
            encoder.coded[..coded.len()].copy_from_slice(&coded);
            encoder.coded[bit / 8] ^= 1 << (bit % 8);
            let kept = encoder.prove(&plain, coded.len());
            let (codec, bytes) = (kept.codec, kept.bytes.to_vec());
            let mut back = vec![0; plain.len()];
            assert!(Decoder::new().decode(codec, &bytes, &mut back), "bit {bit}: what is stored does not decode");
            assert_eq!(back, plain, "bit {bit}: what is stored decodes to something else");
        }
    }

    #[test]
    fn a_frame_of_another_length_does_not_decode() {
        let mut encoder = Encoder::new(1);
        let plain = vec![0u8; 9000];
        let coded = encoder.encode(&plain).bytes.to_vec();
        for len in [0, 8999, 9001] {
            assert!(!Decoder::new().decode(Codec::Zstd, &coded, &mut vec![0; len]), "{len}");
            assert!(!Decoder::new().decode(Codec::Raw, &plain, &mut vec![0; len]), "{len}");
        }
    }
}
