//! The one place that seals, opens, signs and derives keys: format.md, "Keys" and "Sealing".
//!
//! AES-256-GCM with counter nonces under keys that belong to one object each, so that neither a restart nor a rolled-back
//! machine can repeat a (key, nonce) pair. GCM does not commit to its key, hence the commitment that is derived beside it.

use asof_world::World;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, X25519};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

/// 32 secret bytes that are wiped when dropped and never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Takes `bytes` as a secret.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A fresh secret.
    pub fn random(world: &World) -> Self {
        Self::new(world.random_bytes())
    }

    /// The bytes, for sealing into a key file.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Length of the tag that GCM appends.
pub(crate) const TAG_LEN: usize = 16;
/// Length of a sealed object key: ephemeral public key, key, tag.
pub(crate) const SEALED_KEY_LEN: usize = 32 + 32 + TAG_LEN;

/// A 256-bit BLAKE3 digest.
pub type Digest = [u8; 32];
/// A 128-bit digest or keyed hash.
pub type ShortDigest = [u8; 16];

/// BLAKE3 of plaintext, as WAL objects record it.
pub fn content_digest(plain: &[u8]) -> Digest {
    digest(plain)
}

/// BLAKE3 of `bytes`.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// The first half of BLAKE3 of `bytes`.
pub(crate) fn short_digest(bytes: &[u8]) -> ShortDigest {
    first_half(blake3::hash(bytes).as_bytes())
}

pub(crate) fn first_half(digest: &Digest) -> ShortDigest {
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// A key for one object and one class, and the value that commits to it.
pub(crate) struct SectionKey {
    key: LessSafeKey,
    pub(crate) commitment: ShortDigest,
}

impl SectionKey {
    /// Derives the key from a secret and everything that names the object.
    pub(crate) fn derive(secret: &Secret, context: &str, bound_to: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(secret.expose());
        hasher.update(context.as_bytes());
        for part in bound_to {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut output = Zeroizing::new([0u8; 48]);
        hasher.finalize_xof().fill(output.as_mut());
        let mut commitment = [0; 16];
        commitment.copy_from_slice(&output[32..]);
        Self { key: aead_key(&output[..32]), commitment }
    }

    /// Seals `bytes` in place and returns the tag to put behind them.
    pub(crate) fn seal(&self, number: u32, associated: &[u8], bytes: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self.key.seal_in_place_separate_tag(nonce(number), Aad::from(associated), bytes);
        let mut result = [0; TAG_LEN];
        result.copy_from_slice(tag.expect("a section is shorter than GCM's limit").as_ref());
        result
    }

    /// Opens `sealed` (with its tag) in place; `None` when it was not sealed with this key, number and associated data.
    pub(crate) fn open<'a>(&self, number: u32, associated: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.key.open_in_place(nonce(number), Aad::from(associated), sealed).ok()
    }
}

fn aead_key(bytes: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("the key has 32 bytes"))
}

fn nonce(number: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The public half of an X25519 key.
pub(crate) fn data_public_key(secret: &Secret) -> [u8; 32] {
    let private = x25519(secret);
    let public = private.compute_public_key().expect("an X25519 key has a public half");
    let mut bytes = [0; 32];
    bytes.copy_from_slice(public.as_ref());
    bytes
}

fn x25519(secret: &Secret) -> agreement::PrivateKey {
    agreement::PrivateKey::from_private_key(&X25519, secret.expose()).expect("any 32 bytes are an X25519 key")
}

/// Seals an object's key to the holders of the secret data key.
pub(crate) fn seal_key(world: &World, to: &[u8; 32], key: &Secret, bound_to: &[u8]) -> Option<[u8; SEALED_KEY_LEN]> {
    let ephemeral = Secret::random(world);
    let ephemeral_public = data_public_key(&ephemeral);
    let wrapping = wrapping_key(&ephemeral, to, &ephemeral_public, to)?;
    let mut sealed = [0; SEALED_KEY_LEN];
    sealed[..32].copy_from_slice(&ephemeral_public);
    sealed[32..64].copy_from_slice(key.expose());
    let tag = wrapping.seal_in_place_separate_tag(nonce(0), Aad::from(bound_to), &mut sealed[32..64]).ok()?;
    sealed[64..].copy_from_slice(tag.as_ref());
    Some(sealed)
}

/// Opens an object's key; `None` when it was sealed to another key or for another object.
pub(crate) fn open_key(secret: &Secret, sealed: &[u8; SEALED_KEY_LEN], bound_to: &[u8]) -> Option<Secret> {
    let mut ephemeral_public = [0; 32];
    ephemeral_public.copy_from_slice(&sealed[..32]);
    let own_public = data_public_key(secret);
    let wrapping = wrapping_key(secret, &ephemeral_public, &ephemeral_public, &own_public)?;
    let mut bytes = Zeroizing::new([0u8; 32 + TAG_LEN]);
    bytes.copy_from_slice(&sealed[32..]);
    wrapping.open_in_place(nonce(0), Aad::from(bound_to), bytes.as_mut()).ok()?;
    let mut key = [0; 32];
    key.copy_from_slice(&bytes[..32]);
    Some(Secret::new(key))
}

/// X25519 refuses a peer key of low order, hence the option.
fn wrapping_key(ours: &Secret, theirs: &[u8; 32], ephemeral: &[u8; 32], recipient: &[u8; 32]) -> Option<LessSafeKey> {
    let peer = agreement::UnparsedPublicKey::new(&X25519, theirs);
    agreement::agree(&x25519(ours), peer, (), |shared| {
        let mut hasher = blake3::Hasher::new_derive_key("asof format 0: object key sealed to the data key");
        hasher.update(shared).update(ephemeral).update(recipient);
        Ok(aead_key(hasher.finalize().as_bytes()))
    })
    .ok()
}

/// The private half of a signing key.
#[derive(Clone, Debug)]
pub struct SigningKey(Secret);

impl SigningKey {
    /// A key from its seed.
    pub fn new(seed: Secret) -> Self {
        Self(seed)
    }

    /// The seed, for sealing into a key file.
    pub fn seed(&self) -> &Secret {
        &self.0
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(self.0.expose()).expect("any 32 bytes are an Ed25519 seed")
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair().public_key().as_ref());
        bytes
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair().sign(message).as_ref());
        bytes
    }
}

/// Whether `signature` over `message` was made with the private half of `public`.
pub(crate) fn signature_holds(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}
