//! Bytes that a decoder must survive: everything cut short, and whole inputs with something changed.
//!
//! What a decoder accepts has to be what its encoder writes, byte for byte: then nothing that was changed can mean what the
//! whole input meant.

/// Changed inputs per decoder and test run. A fixed seed, so that a failure repeats.
const MUTATIONS: u64 = 20_000;

/// Holds `decode`, which returns what it read encoded again, against every prefix and many mutations of `whole`.
pub(crate) fn check(whole: &[u8], decode: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    assert_eq!(decode(whole).as_deref(), Some(whole), "the whole input survives");
    survive(whole, |bytes| {
        if let Some(again) = decode(bytes) {
            assert_eq!(again, bytes, "it was read as something else than it says");
        }
    });
    for len in 0..whole.len() {
        assert_eq!(decode(&whole[..len]), None, "the first {len} bytes of {} were enough", whole.len());
    }
}

/// Runs `decode` over prefixes and mutations of `whole`; all that it must not do is panic.
pub(crate) fn survive(whole: &[u8], decode: impl Fn(&[u8])) {
    (0..whole.len()).for_each(|len| decode(&whole[..len]));
    for seed in 0..MUTATIONS {
        decode(&mutated(whole, seed));
    }
}

/// Some bytes changed, removed, inserted or copied elsewhere.
fn mutated(whole: &[u8], seed: u64) -> Vec<u8> {
    let mut dice = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut below = |limit: usize| {
        let mut bytes = [0; 8];
        dice.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % (limit.max(1) as u64)).expect("the limit fits")
    };
    let mut bytes = whole.to_vec();
    for _ in 0..=below(3) {
        let at = below(bytes.len());
        match below(6) {
            _ if bytes.is_empty() => bytes.push(0),
            0 => bytes[at] ^= 1 << below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, [0, 1, 0x7f, 0x80, 0xff][below(5)]),
            4 => bytes.truncate(at),
            _ => {
                let from = below(bytes.len());
                let piece = bytes[from..].iter().take(below(9)).copied().collect::<Vec<_>>();
                let end = (at + piece.len()).min(bytes.len());
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes
}
