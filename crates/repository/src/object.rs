//! The shape that every sealed object has: format.md, "Objects".
//!
//! ```text
//! prologue   8     "ASOF", format, revision, kind, 0
//! sections   …     frames of a pack, bodies of WAL, parts of a map; each sealed by itself
//! header     …     who it is and how its keys are found
//! index      …     one sealed section that says what the sections are
//! trailer    120   where header and index lie, who signed
//! ```
//!
//! Everything that says what the object *is* lies at its end, so that one read of the last bytes opens it, and so that
//! it can be written in one pass. The header's digest is part of the associated data of every section: a section of
//! another object, another repository or another name does not open.

use asof_world::{AlignedBuf, Id, World};
use bytes::Bytes;

use crate::codec::{Codec, Decoder, Encoder};
use crate::crypto::{self, Digest, SEALED_KEY_LEN, Secret, SectionKey, ShortDigest, TAG_LEN};
use crate::error::{Error, Result};
use crate::keyring::{Keyring, Role, Signers};
use crate::names::Name;
use crate::store::{Body, ReadRange, Store};

/// The format that this build writes and reads.
pub const FORMAT: u8 = 0;
/// The revision of format 0; a build refuses others until the format is 1.
pub const REVISION: u8 = 3;

const MAGIC: &[u8; 4] = b"ASOF";
const PROLOGUE_LEN: usize = 8;
const HEADER_FIXED_LEN: usize = 176;
const TRAILER_LEN: usize = 120;
const MAX_NAME_LEN: usize = 200;
/// The longest section: bounds what a reader allocates before it has authenticated anything.
pub const MAX_SECTION_LEN: usize = 64 << 20;
const SIGNATURE_CONTEXT: &[u8] = b"asof format 0: object signature";

/// What an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One entry of a journal.
    Entry = 1,
    /// Frames of pages.
    Pack = 2,
    /// The page map of a backup.
    Map = 3,
    /// WAL: a piece or a whole segment.
    Wal = 4,
    /// A timeline history.
    History = 5,
    /// What the server's clock said while it wrote nothing.
    Observation = 6,
}

/// Which keys open a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// The index key: every host of the repository.
    Index = 1,
    /// The data key: only hosts that may restore.
    Data = 2,
}

/// Where a sealed section lies and how it is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// First byte within the object.
    pub offset: u64,
    /// Bytes in the object, tag included.
    pub stored_len: u32,
    /// Bytes of plaintext.
    pub plain_len: u32,
    /// How it is coded.
    pub codec: Codec,
    /// The first half of BLAKE3 of the stored bytes, so that a host without the data key can check them.
    pub digest: ShortDigest,
}

/// Writes one object in memory.
pub struct ObjectWriter {
    name: Name,
    header: Vec<u8>,
    header_digest: Digest,
    index_key: SectionKey,
    data_key: Option<SectionKey>,
    sealed_data_key: [u8; SEALED_KEY_LEN],
    buffer: AlignedBuf,
    capacity_limit: usize,
    /// The lowest fresh number of each class: a number is a nonce, and may be used once.
    fresh: [u64; 2],
}

/// An object that is ready to be stored.
pub struct Finished {
    /// Its name.
    pub name: Name,
    /// Its bytes.
    pub body: Body,
    /// Length in bytes.
    pub len: u64,
    /// What an entry or map that refers to it records.
    pub reference: Reference,
}

/// What proves that an object is the one that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// BLAKE3 of header, sealed index and trailer.
    pub digest: Digest,
    /// The sealed data key from its header (zeros where there is no data).
    pub sealed_data_key: [u8; SEALED_KEY_LEN],
    /// BLAKE3 of the header, which every section is bound to.
    pub header_digest: Digest,
}

impl ObjectWriter {
    /// Starts an object; `with_data` gives it a fresh data key. `capacity` bytes are allocated at once.
    pub fn new(world: &World, keyring: &Keyring, name: Name, kind: Kind, with_data: bool, capacity: usize) -> Self {
        let text = name.to_string();
        let salt: [u8; 32] = world.random_bytes();
        let index_key = index_key(keyring, &salt, &text);
        let (data_key, sealed_data_key) = if with_data {
            let secret = Secret::random(world);
            let sealed = crypto::seal_key(world, &keyring.data_public, &secret, text.as_bytes())
                .expect("the repository's data key was checked when it was opened");
            (Some(data_key(keyring.repository, &secret, &text)), sealed)
        } else {
            (None, [0; SEALED_KEY_LEN])
        };
        let data_commitment = data_key.as_ref().map_or([0; 16], |key| key.commitment);
        let header = Header {
            kind: kind as u8,
            with_data,
            repository: keyring.repository,
            salt,
            index_commitment: index_key.commitment,
            data_commitment,
            sealed_data_key,
            name: text,
        }
        .encode();
        let mut buffer = AlignedBuf::with_capacity(capacity.max(4096));
        buffer.extend(&prologue(kind as u8));
        let header_digest = crypto::digest(&header);
        let capacity_limit = buffer.capacity();
        // Number 0 of the index class is the index, which comes last.
        let fresh = [1, 0];
        Self { name, header, header_digest, index_key, data_key, sealed_data_key, buffer, capacity_limit, fresh }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether no section was written.
    pub fn is_empty(&self) -> bool {
        self.len() == PROLOGUE_LEN
    }

    /// The sealed data key, for maps.
    pub fn sealed_data_key(&self) -> &[u8; SEALED_KEY_LEN] {
        &self.sealed_data_key
    }

    /// Seals one section of data or index class under `number`; numbers ascend within a class. Index number 0 is the index
    /// itself.
    pub fn section(&mut self, class: Class, number: u32, plain: &[u8], encoder: &mut Encoder) -> Section {
        let fresh = &mut self.fresh[class as usize - 1];
        assert!(u64::from(number) >= *fresh, "section number {number} is not fresh");
        *fresh = u64::from(number) + 1;
        self.seal(class, number, plain, encoder)
    }

    fn seal(&mut self, class: Class, number: u32, plain: &[u8], encoder: &mut Encoder) -> Section {
        let coded = encoder.encode(plain);
        let section = Section {
            offset: self.buffer.len() as u64,
            stored_len: length(coded.bytes.len() + TAG_LEN),
            plain_len: length(plain.len()),
            codec: coded.codec,
            digest: [0; 16],
        };
        self.make_room(coded.bytes.len() + TAG_LEN);
        let start = self.buffer.len();
        self.buffer.extend(coded.bytes);
        let associated = associated_data(&self.header_digest, class, number, &section);
        let key = match class {
            Class::Index => &self.index_key,
            Class::Data => self.data_key.as_ref().expect("the object was started with a data key"),
        };
        let tag = key.seal(number, &associated, &mut self.buffer.as_mut_slice()[start..]);
        self.buffer.extend(&tag);
        Section { digest: crypto::short_digest(&self.buffer.as_slice()[start..]), ..section }
    }

    fn make_room(&mut self, wanted: usize) {
        if self.buffer.room() >= wanted {
            return;
        }
        let mut larger = AlignedBuf::with_capacity((self.buffer.len() + wanted).max(self.capacity_limit * 2));
        larger.extend(self.buffer.as_slice());
        self.capacity_limit = larger.capacity();
        self.buffer = larger;
    }

    /// Closes the object with its index and signature.
    pub fn finish(mut self, keyring: &Keyring, index: &[u8], encoder: &mut Encoder) -> Finished {
        let header_offset = self.buffer.len();
        self.make_room(self.header.len());
        let header = std::mem::take(&mut self.header);
        self.buffer.extend(&header);
        let section = self.seal(Class::Index, 0, index, encoder);
        let sealed_index = &self.buffer.as_slice()[header_offset + header.len()..];
        let message = signed_message(&self.header_digest, &crypto::digest(sealed_index));
        let trailer = Trailer {
            header_offset: header_offset as u64,
            header_len: length(header.len()),
            index_stored_len: section.stored_len,
            index_plain_len: section.plain_len,
            codec: section.codec as u8,
            signer: keyring.signer(),
            signature: keyring.signing.sign(&message),
        };
        self.make_room(TRAILER_LEN);
        self.buffer.extend(&trailer.encode());
        let reference = Reference {
            digest: crypto::digest(&self.buffer.as_slice()[header_offset..]),
            sealed_data_key: self.sealed_data_key,
            header_digest: self.header_digest,
        };
        Finished { name: self.name, len: self.buffer.len() as u64, body: Body::new(self.buffer), reference }
    }
}

fn length(len: usize) -> u32 {
    assert!(len <= MAX_SECTION_LEN, "sections are cut by their writers");
    u32::try_from(len).expect("the limit fits")
}

fn prologue(kind: u8) -> [u8; PROLOGUE_LEN] {
    let [a, b, c, d] = *MAGIC;
    [a, b, c, d, FORMAT, REVISION, kind, 0]
}

fn index_key(keyring: &Keyring, salt: &[u8; 32], name: &str) -> SectionKey {
    let bound_to: [&[u8]; 3] = [salt, &keyring.repository.0, name.as_bytes()];
    SectionKey::derive(&keyring.index, "asof format 0: index class", &bound_to)
}

fn data_key(repository: Id, secret: &Secret, name: &str) -> SectionKey {
    SectionKey::derive(secret, "asof format 0: data class", &[&repository.0, name.as_bytes()])
}

/// Header digest, class, number, final flag, codec, lengths: 48 bytes.
fn associated_data(header: &Digest, class: Class, number: u32, section: &Section) -> [u8; 48] {
    let mut data = [0; 48];
    data[..32].copy_from_slice(header);
    data[32..36].copy_from_slice(&number.to_le_bytes());
    data[36..40].copy_from_slice(&section.plain_len.to_le_bytes());
    data[40..44].copy_from_slice(&section.stored_len.to_le_bytes());
    data[44] = class as u8;
    data[45] = section.codec as u8;
    data[46] = u8::from(class == Class::Index && number == 0);
    data
}

fn signed_message(header: &Digest, index: &Digest) -> Vec<u8> {
    [SIGNATURE_CONTEXT, header, index].concat()
}

/// Who an object is and how its keys are found; 176 bytes and its name.
struct Header {
    kind: u8,
    with_data: bool,
    repository: Id,
    salt: [u8; 32],
    index_commitment: ShortDigest,
    data_commitment: ShortDigest,
    sealed_data_key: [u8; SEALED_KEY_LEN],
    name: String,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_FIXED_LEN + self.name.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[FORMAT, REVISION, self.kind, u8::from(self.with_data)]);
        let name_len = u16::try_from(self.name.len()).expect("names are short");
        bytes.extend_from_slice(&name_len.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]); // reserved 2, feature flags needed to read 4
        bytes.extend_from_slice(&self.repository.0);
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.index_commitment);
        bytes.extend_from_slice(&self.data_commitment);
        bytes.extend_from_slice(&self.sealed_data_key);
        assert_eq!(bytes.len(), HEADER_FIXED_LEN, "the fixed part is as long as the format says");
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8], object: &str) -> Result<Self> {
        let damaged = |reason: &str| Error::corrupt(object, reason);
        let (fixed, name) = bytes.split_at_checked(HEADER_FIXED_LEN).ok_or_else(|| damaged("its header is cut"))?;
        check_format(fixed, object)?;
        let mut at = 8;
        let mut take = |len: usize| {
            let field = &fixed[at..at + len];
            at += len;
            field
        };
        let name_len = usize::from(u16::from_le_bytes(array(take(2))));
        let reserved: [u8; 6] = array(take(6));
        if reserved != [0; 6] || fixed[7] > 1 {
            return Err(Error::denied(
                object,
                "it needs a feature that this version of asof does not have; update asof",
            ));
        }
        if name_len != name.len() || name_len > MAX_NAME_LEN {
            return Err(damaged("its header has another length than its name needs"));
        }
        let name = std::str::from_utf8(name).map_err(|_| damaged("its name is not text"))?.to_owned();
        Ok(Self {
            kind: fixed[6],
            with_data: fixed[7] == 1,
            repository: Id(array(take(16))),
            salt: array(take(32)),
            index_commitment: array(take(16)),
            data_commitment: array(take(16)),
            sealed_data_key: array(take(SEALED_KEY_LEN)),
            name,
        })
    }
}

fn check_format(bytes: &[u8], object: &str) -> Result<()> {
    if bytes.get(..4) != Some(MAGIC) {
        return Err(Error::corrupt(object, "it is not an object of asof"));
    }
    match (bytes.get(4), bytes.get(5)) {
        (Some(&FORMAT), Some(&REVISION)) => Ok(()),
        (format, revision) => {
            let found = format!("{}.{}", format.unwrap_or(&0), revision.unwrap_or(&0));
            let reason =
                format!("it has format {found} and this asof reads {FORMAT}.{REVISION}; use the asof that wrote it");
            Err(Error::denied(object, reason))
        }
    }
}

/// A field of known length.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller took as many bytes as the field has")
}

/// Where header and index lie, and who signed; the last 120 bytes.
struct Trailer {
    header_offset: u64,
    header_len: u32,
    index_stored_len: u32,
    index_plain_len: u32,
    codec: u8,
    signer: Id,
    signature: [u8; 64],
}

impl Trailer {
    fn encode(&self) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        bytes[..8].copy_from_slice(&self.header_offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.header_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.index_stored_len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.index_plain_len.to_le_bytes());
        bytes[20] = self.codec;
        bytes[24..40].copy_from_slice(&self.signer.0);
        bytes[40..104].copy_from_slice(&self.signature);
        bytes[104..112].copy_from_slice(b"asof end");
        bytes
    }

    fn decode(bytes: &[u8; TRAILER_LEN], object: &str) -> Result<Self> {
        if bytes[104..112] != *b"asof end" || bytes[112..] != [0; 8] || bytes[21..24] != [0; 3] {
            return Err(Error::corrupt(object, "its end is missing; it was cut or is not an object of asof"));
        }
        Ok(Self {
            header_offset: u64::from_le_bytes(array(&bytes[..8])),
            header_len: u32::from_le_bytes(array(&bytes[8..12])),
            index_stored_len: u32::from_le_bytes(array(&bytes[12..16])),
            index_plain_len: u32::from_le_bytes(array(&bytes[16..20])),
            codec: bytes[20],
            signer: Id(array(&bytes[24..40])),
            signature: array(&bytes[40..104]),
        })
    }

    fn tail_len(&self) -> u64 {
        u64::from(self.header_len) + u64::from(self.index_stored_len) + TRAILER_LEN as u64
    }
}

/// An object whose index was authenticated.
pub struct Opened {
    /// Length of the object in bytes.
    pub len: u64,
    /// The plaintext of its index.
    pub index: Vec<u8>,
    /// What proves that it is the one that was meant.
    pub reference: Reference,
    /// Who signed it.
    pub signer: Id,
    text: String,
    index_key: SectionKey,
    data_commitment: ShortDigest,
    repository: Id,
}

/// Opens the index of an object from its last bytes, which `tail` must contain in full; `len` is the object's length.
///
/// The order is: shape, name, key commitment, signature, seal. Trailer and header are fixed fields, read before they can be
/// authenticated; nothing else is parsed before.
fn open_tail(
    keyring: &Keyring,
    signers: &Signers,
    role: Role,
    name: Name,
    kind: Kind,
    len: u64,
    tail: &[u8],
) -> Result<Opened> {
    let text = name.to_string();
    let damaged = |reason: &str| Error::corrupt(&text, reason);
    let trailer = trailer_of(tail, &text)?;
    let tail_len = usize::try_from(trailer.tail_len()).unwrap_or(usize::MAX);
    let start = tail.len().checked_sub(tail_len).ok_or_else(|| damaged("its index is longer than it is"))?;
    let lies_behind_the_prologue = trailer.header_offset >= PROLOGUE_LEN as u64;
    if !lies_behind_the_prologue || trailer.header_offset.checked_add(trailer.tail_len()) != Some(len) {
        return Err(damaged("its end does not fit its length"));
    }
    let tail = &tail[start..];
    let (header_bytes, rest) = tail.split_at(trailer.header_len as usize);
    let sealed_index = &rest[..trailer.index_stored_len as usize];
    let header = Header::decode(header_bytes, &text)?;
    if header.repository != keyring.repository {
        return Err(Error::denied(&text, format!("it belongs to repository {}, not to this one", header.repository)));
    }
    if header.name != text || header.kind != kind as u8 {
        return Err(Error::denied(&text, format!("it was written as {}", header.name)));
    }
    let index_key = index_key(keyring, &header.salt, &text);
    if index_key.commitment != header.index_commitment {
        return Err(Error::denied(&text, "it is sealed with another index key"));
    }
    let header_digest = crypto::digest(header_bytes);
    let codec = Codec::from_id(trailer.codec).ok_or_else(|| damaged("its index has an unknown codec"))?;
    let section = Section {
        offset: 0,
        stored_len: trailer.index_stored_len,
        plain_len: trailer.index_plain_len,
        codec,
        digest: [0; 16],
    };
    let signer = signers.require(trailer.signer, role, &text)?;
    let message = signed_message(&header_digest, &crypto::digest(sealed_index));
    if !crypto::signature_holds(&signer.public, &message, &trailer.signature) {
        return Err(damaged("its signature does not hold"));
    }
    let associated = associated_data(&header_digest, Class::Index, 0, &section);
    let index = open_section(&index_key, 0, &associated, &section, sealed_index, &text, "its index")?;
    let reference = Reference { digest: crypto::digest(tail), sealed_data_key: header.sealed_data_key, header_digest };
    Ok(Opened {
        len,
        index,
        reference,
        signer: trailer.signer,
        text,
        index_key,
        data_commitment: header.data_commitment,
        repository: header.repository,
    })
}

fn trailer_of(tail: &[u8], text: &str) -> Result<Trailer> {
    let cut = || Error::corrupt(text, format!("it has only {} bytes", tail.len()));
    let trailer: &[u8; TRAILER_LEN] = tail.last_chunk().ok_or_else(cut)?;
    let trailer = Trailer::decode(trailer, text)?;
    if trailer.index_stored_len as usize > MAX_SECTION_LEN
        || trailer.index_plain_len as usize > MAX_SECTION_LEN
        || trailer.header_len as usize > HEADER_FIXED_LEN + MAX_NAME_LEN
        || (trailer.index_stored_len as usize) < TAG_LEN
    {
        return Err(Error::corrupt(text, "its end states impossible lengths"));
    }
    Ok(trailer)
}

fn open_section(
    key: &SectionKey,
    number: u32,
    associated: &[u8],
    section: &Section,
    stored: &[u8],
    object: &str,
    what: &str,
) -> Result<Vec<u8>> {
    let mut sealed = stored.to_vec();
    let mut plain = vec![0; section.plain_len as usize];
    open_into(key, number, associated, section, &mut sealed, &mut plain, &mut Decoder::new())
        .map_err(|reason| Error::corrupt(object, format!("{what} {reason}")))?;
    Ok(plain)
}

fn open_into(
    key: &SectionKey,
    number: u32,
    associated: &[u8],
    section: &Section,
    sealed: &mut [u8],
    plain: &mut [u8],
    decoder: &mut Decoder,
) -> Result<(), &'static str> {
    if sealed.len() != section.stored_len as usize || plain.len() != section.plain_len as usize {
        return Err("has another length than was recorded");
    }
    let coded = key.open(number, associated, sealed).ok_or("does not open: its bytes were changed")?;
    if decoder.decode(section.codec, coded, plain) { Ok(()) } else { Err("does not decode") }
}

/// Opens an object that is at hand in full.
pub fn open(keyring: &Keyring, signers: &Signers, role: Role, name: Name, kind: Kind, bytes: &[u8]) -> Result<Opened> {
    if bytes.get(..PROLOGUE_LEN) != Some(&prologue(kind as u8)[..]) {
        check_format(bytes, &name.to_string())?;
        return Err(Error::corrupt(name, "its first bytes were changed"));
    }
    open_tail(keyring, signers, role, name, kind, bytes.len() as u64, bytes)
}

/// Reads the end of an object, of which `guess` bytes are likely to be enough, and opens its index.
pub async fn read_index(
    store: &dyn Store,
    keyring: &Keyring,
    signers: &Signers,
    name: Name,
    kind: Kind,
    guess: u64,
) -> Result<Opened> {
    let text = name.to_string();
    let len = store.len(&text).await?;
    let mut tail = store.read(&text, ReadRange::Last { len: guess }).await?;
    let needed = trailer_of(&tail, &text)?.tail_len();
    if needed > tail.len() as u64 {
        tail = store.read(&text, ReadRange::Last { len: needed }).await?;
    }
    open_tail(keyring, signers, Role::Writer, name, kind, len, &tail)
}

impl Opened {
    /// Opens an index-class section, given its stored bytes.
    pub fn open_index_section(&self, number: u32, section: &Section, stored: &[u8]) -> Result<Vec<u8>> {
        let associated = associated_data(&self.reference.header_digest, Class::Index, number, section);
        let what = format!("section {number}");
        open_section(&self.index_key, number, &associated, section, stored, &self.text, &what)
    }

    /// What opens the object's data-class sections.
    pub fn data_sections(&self, keyring: &Keyring, name: Name) -> Result<DataSections> {
        let sections = DataSections::new(keyring, name, &self.reference)?;
        if sections.key.commitment != self.data_commitment || self.repository != keyring.repository {
            return Err(Error::corrupt(&self.text, "its data key is not the one it commits to"));
        }
        Ok(sections)
    }
}

/// Opens the data-class sections of one object.
pub struct DataSections {
    text: String,
    key: SectionKey,
    header_digest: Digest,
}

impl DataSections {
    /// From what an authenticated map or index says of the object.
    pub fn new(keyring: &Keyring, name: Name, reference: &Reference) -> Result<Self> {
        let text = name.to_string();
        let secret = keyring.require_data_secret(&text)?;
        let object_secret = crypto::open_key(secret, &reference.sealed_data_key, text.as_bytes())
            .ok_or_else(|| Error::denied(&text, "its data key is sealed to another repository key"))?;
        let key = data_key(keyring.repository, &object_secret, &text);
        Ok(Self { text, key, header_digest: reference.header_digest })
    }

    /// Opens section `number` from `stored` (which is scratched) into `plain`, of exactly the recorded length.
    pub fn open(
        &self,
        number: u32,
        section: &Section,
        stored: &mut [u8],
        plain: &mut [u8],
        decoder: &mut Decoder,
    ) -> Result<()> {
        let associated = associated_data(&self.header_digest, Class::Data, number, section);
        open_into(&self.key, number, &associated, section, stored, plain, decoder)
            .map_err(|reason| Error::corrupt(&self.text, format!("frame {number} {reason}")))
    }
}

/// Creates a finished object; what stands there already is a conflict.
pub async fn create(store: &dyn Store, object: &Finished) -> Result<()> {
    match store.create(&object.name.to_string(), object.body.clone()).await? {
        crate::store::Created::New => Ok(()),
        crate::store::Created::Exists => Err(Error::conflict(object.name, "somebody else wrote it")),
    }
}

/// Reads a whole object.
pub async fn read(store: &dyn Store, name: Name) -> Result<Bytes> {
    store.read(&name.to_string(), ReadRange::Whole).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SigningKey;
    use crate::keyring::SignerEntry;

    fn keys(world: &World) -> (Keyring, Signers) {
        let data = Secret::random(world);
        let signing = SigningKey::new(Secret::random(world));
        let mut signers = Signers::default();
        signers.add(SignerEntry { public: signing.public(), roles: vec![Role::Writer], label: "w".to_owned() });
        let (index, data_public) = (Secret::random(world), crypto::data_public_key(&data));
        (Keyring { repository: world.id(), index, data_public, data_secret: Some(data), signing }, signers)
    }

    /// An object with two data sections and `index`, whose header was changed before anything was sealed.
    fn object(world: &World, keyring: &Keyring, change: fn(&mut Vec<u8>)) -> (Finished, [Section; 2]) {
        let name = Name::Map { lineage: Id([1; 16]), attempt: Id([2; 16]) };
        let mut writer = ObjectWriter::new(world, keyring, name, Kind::Map, true, 4096);
        change(&mut writer.header);
        writer.header_digest = crypto::digest(&writer.header);
        let mut encoder = Encoder::new(3);
        let sections = [0, 1].map(|number| writer.section(Class::Data, number, b"same length", &mut encoder));
        (writer.finish(keyring, b"index", &mut encoder), sections)
    }

    fn opened(keyring: &Keyring, signers: &Signers, object: &Finished) -> Result<Opened> {
        open(keyring, signers, Role::Writer, object.name, Kind::Map, object.body.as_slice())
    }

    #[tokio::test]
    async fn a_section_opens_under_its_own_number_length_and_class_only() {
        let world = World::real();
        let (keyring, signers) = keys(&world);
        let (object, [first, second]) = object(&world, &keyring, |_| {});
        let opened = opened(&keyring, &signers, &object).unwrap();
        let sections = opened.data_sections(&keyring, object.name).unwrap();
        let stored = |section: &Section| {
            let at = usize::try_from(section.offset).unwrap();
            object.body.as_slice()[at..at + section.stored_len as usize].to_vec()
        };
        let read = |number, section: &Section, bytes: &[u8]| {
            let mut plain = vec![0; section.plain_len as usize];
            let result = sections.open(number, section, &mut bytes.to_vec(), &mut plain, &mut Decoder::new());
            result.map(|()| plain)
        };
        assert_eq!(read(0, &first, &stored(&first)).unwrap(), b"same length");
        assert_eq!(read(1, &second, &stored(&second)).unwrap(), b"same length");
        assert!(read(1, &first, &stored(&first)).is_err(), "another number");
        assert!(read(0, &first, &stored(&second)).is_err(), "another section");
        assert!(read(0, &Section { plain_len: 10, ..first }, &stored(&first)).is_err(), "another length");
        assert!(read(0, &Section { codec: Codec::Zstd, ..first }, &stored(&first)).is_err(), "another codec");
        assert!(opened.open_index_section(0, &first, &stored(&first)).is_err(), "another class");
    }

    #[tokio::test]
    async fn a_header_that_commits_to_another_key_or_hides_its_flags_is_refused() {
        let world = World::real();
        let (keyring, signers) = keys(&world);
        let (other, _) = object(&world, &keyring, |header| header[80] ^= 1);
        let other = opened(&keyring, &signers, &other).unwrap();
        let name = Name::Map { lineage: Id([1; 16]), attempt: Id([2; 16]) };
        assert!(matches!(other.data_sections(&keyring, name), Err(Error::Corrupt { .. })));
        let changes: [fn(&mut Vec<u8>); 6] = [
            |header| header[64] ^= 1,
            |header| header[7] = 2,
            |header| header[10] = 1,
            |header| header[15] = 1,
            |header| header[8] ^= 1,
            |header| header[16] ^= 1,
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let (object, _) = object(&world, &keyring, change);
            assert!(opened(&keyring, &signers, &object).is_err(), "change {at}");
        }
    }

    #[tokio::test]
    async fn an_object_that_is_cut_anywhere_or_mutated_does_not_open() {
        let world = World::real();
        let (keyring, signers) = keys(&world);
        let (whole, _) = object(&world, &keyring, |_| {});
        let end = usize::try_from(whole.len).unwrap();
        crate::hostile::survive(whole.body.as_slice(), |bytes| {
            if let Ok(opened) = open(&keyring, &signers, Role::Writer, whole.name, Kind::Map, bytes) {
                // Sections are opened one by one: all that may differ here are their bytes.
                assert_eq!(opened.index, b"index");
                assert_eq!(bytes.len(), end);
                assert_eq!(opened.reference, whole.reference);
            }
        });
    }
}
