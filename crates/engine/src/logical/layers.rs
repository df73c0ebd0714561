//! What other people's scripts wrap around a dump: compression, and `openssl enc`. Taken off while it is read.

use std::io;
use std::path::Path;

use asof_postgres::archive::Compression;
use asof_postgres::archive::codec::{Decompressor, Wrapping};
use asof_postgres::archive::sniff::{Kind, SNIFF_BYTES};
use asof_postgres::conninfo::Secret;
use asof_world::ReadFile;
use aws_lc_rs::cipher::{AES_256, DecryptionContext, StreamingDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;

use crate::error::{Error, Result};

/// What `openssl enc` writes before its salt (`apps/enc.c`).
const SALTED: &[u8; 8] = b"Salted__";
const SALT_LEN: usize = 8;
const BLOCK_LEN: usize = 16;
/// The iterations of `-pbkdf2` where `-iter` does not say otherwise: `PKCS5_ITER_DEFAULT` in `apps/enc.c`, OpenSSL 1.1.1 to 3.5.
const ITERATIONS: u32 = 10_000;
/// More layers than a person makes.
const MOST_LAYERS: usize = 4;

/// How much of a wrapped file is read at once: what comes out may be a thousand times as large.
pub(super) const WRAPPED_LEN: usize = 128 << 10;

/// The layers of a file, the outermost first.
pub(super) struct Layers {
    layers: Vec<Layer>,
    name: String,
}

enum Layer {
    Compressed(Decompressor),
    Encrypted(Box<Openssl>),
}

/// How to take the layers of a file off.
#[derive(Clone)]
pub(super) struct Recipe {
    kinds: Vec<Kind>,
    /// What is inside.
    pub(super) inner: Kind,
    secret: Option<Secret>,
    name: String,
}

impl Recipe {
    /// Looks at the beginning of a file, layer by layer.
    pub(super) fn of(path: &Path, file: &dyn ReadFile, secret: Option<&Secret>) -> Result<Self> {
        let name = path.display().to_string();
        let mut recipe = Self { kinds: Vec::new(), inner: Kind::Empty, secret: secret.cloned(), name };
        loop {
            let beginning = recipe.layers()?.beginning(path, file)?;
            recipe.inner = Kind::of(&beginning[..beginning.len().min(SNIFF_BYTES)]);
            if !matches!(recipe.inner, Kind::Gzip | Kind::Zstd | Kind::Lz4 | Kind::OpensslSalted) {
                break;
            }
            if recipe.kinds.len() == MOST_LAYERS {
                return Err(Error::refused(format!("{} is wrapped too many times", recipe.name), "unwrap it by hand"));
            }
            recipe.kinds.push(recipe.inner.clone());
        }
        if let (Kind::Unknown(_) | Kind::Empty, Some(Kind::OpensslSalted)) = (&recipe.inner, recipe.kinds.last()) {
            return Err(wrong_password(&recipe.name));
        }
        Ok(recipe)
    }

    /// Whether anything has to be taken off.
    pub(super) fn is_wrapped(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// Whether it is an archive in which `pg_restore` can seek.
    pub(super) fn is_seekable(&self) -> bool {
        !self.is_wrapped() && self.inner == Kind::Custom
    }

    /// Whether a layer compresses, and so has checksums of its own.
    pub(super) fn is_compressed(&self) -> bool {
        self.kinds.iter().any(|kind| matches!(kind, Kind::Gzip | Kind::Zstd | Kind::Lz4))
    }

    /// Whether it is a script with one layer of compression, as `pg_dump --compress` writes it.
    pub(super) fn is_compressed_script(&self) -> bool {
        self.kinds.len() == 1 && self.is_compressed() && self.inner == Kind::PlainSql
    }

    /// Whether it was encrypted, without proof that nobody changed it.
    pub(super) fn is_encrypted(&self) -> bool {
        self.kinds.contains(&Kind::OpensslSalted)
    }

    pub(super) fn layers(&self) -> Result<Layers> {
        let layer = |kind: &Kind| {
            let compression = match kind {
                Kind::Gzip => Compression::Gzip,
                Kind::Zstd => Compression::Zstd,
                Kind::Lz4 => Compression::Lz4,
                _ => {
                    let secret = self.secret.as_ref().ok_or_else(|| {
                        let what = format!("{} is encrypted by openssl enc", self.name);
                        Error::refused(what, "give its password with --password-file, or on a terminal")
                    })?;
                    return Ok(Layer::Encrypted(Box::new(Openssl::new(secret))));
                }
            };
            let decompressor = Decompressor::new(compression, Wrapping::File);
            decompressor.map(Layer::Compressed).map_err(|error| damaged(&self.name, &error))
        };
        Ok(Layers { layers: self.kinds.iter().map(layer).collect::<Result<_>>()?, name: self.name.clone() })
    }
}

impl Layers {
    /// As much of the inside as decides what it is: rows further on may hold any byte. That it is not complete is no error here.
    fn beginning(&mut self, path: &Path, file: &dyn ReadFile) -> Result<Vec<u8>> {
        let (mut inside, mut offset, mut piece) = (Vec::new(), 0, vec![0; WRAPPED_LEN]);
        while inside.len() < SNIFF_BYTES {
            let len = file.read_at(offset, &mut piece).map_err(Error::files("read", path))?;
            if len == 0 {
                break;
            }
            offset += len as u64;
            self.push(&piece[..len], &mut inside)?;
        }
        Ok(inside)
    }

    /// Takes all layers off the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut bytes = std::borrow::Cow::Borrowed(bytes);
        for layer in &mut self.layers {
            let mut inside = Vec::new();
            layer.push(&bytes, &mut inside, &self.name)?;
            bytes = inside.into();
        }
        out.extend_from_slice(&bytes);
        Ok(())
    }

    /// The last bytes.
    ///
    /// # Errors
    /// `Damaged` when a layer is not complete.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let mut last = Vec::new();
        for at in 0..self.layers.len() {
            let mut inside = Vec::new();
            self.layers[at].push(&last, &mut inside, &self.name)?;
            self.layers[at].finish(&mut inside, &self.name)?;
            last = inside;
        }
        out.append(&mut last);
        Ok(())
    }
}

impl Layer {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>, name: &str) -> Result<()> {
        match self {
            Self::Compressed(layer) => {
                layer.push(bytes, &mut |plain| out.extend_from_slice(plain)).map_err(|error| damaged(name, &error))
            }
            Self::Encrypted(layer) => layer.push(bytes, out).map_err(|error| damaged(name, &error)),
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>, name: &str) -> Result<()> {
        match self {
            Self::Compressed(layer) => layer.finish().map_err(|error| damaged(name, &error)),
            Self::Encrypted(layer) => layer.finish(out).map_err(|_| wrong_password(name)),
        }
    }
}

fn damaged(name: &str, error: &dyn std::error::Error) -> Error {
    Error::damaged(format!("{name} is damaged or cut off: {error}"), "take another copy of the dump")
}

fn wrong_password(name: &str) -> Error {
    let what = format!("{name} cannot be decrypted: the password is another one, or the file is damaged");
    Error::refused(what, "it is read as `openssl enc -aes-256-cbc -pbkdf2` writes it; look at its options")
}

/// What `openssl enc -aes-256-cbc -salt -pbkdf2` wrote. It says nothing about whether somebody changed it.
struct Openssl {
    secret: Secret,
    /// Salt and what did not fill a block.
    held: Vec<u8>,
    key: Option<StreamingDecryptingKey>,
}

impl Openssl {
    fn new(secret: &Secret) -> Self {
        Self { secret: secret.clone(), held: Vec::new(), key: None }
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(key) = &mut self.key {
            return decrypt(key, bytes, out);
        }
        self.held.extend_from_slice(bytes);
        let Some((head, rest)) = self.held.split_at_checked(SALTED.len() + SALT_LEN) else { return Ok(()) };
        let mut key = key_of(&self.secret, &head[SALTED.len()..])?;
        decrypt(&mut key, rest, out)?;
        self.key = Some(key);
        self.held = Vec::new();
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let key = self.key.take().ok_or_else(|| io::Error::other("it ends before its first block"))?;
        let mut last = [0; BLOCK_LEN];
        let written = key.finish(&mut last).map_err(|_| io::Error::other("its last block is not one"))?;
        out.extend_from_slice(written.written());
        Ok(())
    }
}

fn decrypt(key: &mut StreamingDecryptingKey, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let at = out.len();
    out.resize(at + bytes.len() + BLOCK_LEN, 0);
    let written = key.update(bytes, &mut out[at..]).map_err(|_| io::Error::other("it cannot be decrypted"))?;
    let len = written.written().len();
    out.truncate(at + len);
    Ok(())
}

/// Key and initial vector are the output of PBKDF2, one behind the other (`apps/enc.c`).
fn key_of(secret: &Secret, salt: &[u8]) -> io::Result<StreamingDecryptingKey> {
    let mut derived = [0; 48];
    let iterations = std::num::NonZeroU32::new(ITERATIONS).expect("it is not zero");
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, secret.expose().as_bytes(), &mut derived);
    let iv: [u8; BLOCK_LEN] = derived[32..].try_into().expect("16 bytes are left");
    let unusable = |_| io::Error::other("the key cannot be used");
    let key = UnboundCipherKey::new(&AES_256, &derived[..32]).map_err(unusable)?;
    StreamingDecryptingKey::cbc_pkcs7(key, DecryptionContext::Iv128(FixedLength::from(iv))).map_err(unusable)
}
