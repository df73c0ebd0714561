//! What this process can open and sign, and whom it believes: format.md, "Keys", "Roles".

use std::collections::BTreeMap;

use asof_world::Id;
use serde::{Deserialize, Serialize};

use crate::crypto::{self, Secret, ShortDigest, SigningKey};
use crate::error::{Error, Result};

/// What a signing key may do. Entry kinds are bound to roles, so that a stolen database host cannot order deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Makes backups and stores WAL.
    Writer,
    /// Tags, holds, deletes, changes policies, adds keys.
    Operator,
    /// Deletes what a plan allows.
    Collector,
}

/// A signing key that the repository believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerEntry {
    /// The public half.
    pub public: [u8; 32],
    /// What it may do.
    pub roles: Vec<Role>,
    /// Who holds it, in the operator's words.
    pub label: String,
}

/// The signing keys that the repository believes, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers(BTreeMap<Id, SignerEntry>);

impl Signers {
    /// Believes `entry` from now on.
    pub fn add(&mut self, entry: SignerEntry) -> Id {
        let id = signer_id(&entry.public);
        self.0.insert(id, entry);
        id
    }

    /// The entry of `id`, if it may act as `role`.
    pub fn require(&self, id: Id, role: Role, object: &str) -> Result<&SignerEntry> {
        let entry = self.0.get(&id).ok_or_else(|| Error::denied(object, format!("signer {id} is not registered")))?;
        if entry.roles.contains(&role) {
            Ok(entry)
        } else {
            Err(Error::denied(object, format!("signer {} ({id}) may not act as {role:?}", entry.label).to_lowercase()))
        }
    }

    /// All signers.
    pub fn iter(&self) -> impl Iterator<Item = (&Id, &SignerEntry)> {
        self.0.iter()
    }
}

/// The id of a signing key: the first half of BLAKE3 of its public half.
pub fn signer_id(public: &[u8; 32]) -> Id {
    Id(crypto::short_digest(public))
}

/// The keys of this process for one repository.
#[derive(Clone)]
pub struct Keyring {
    /// Which repository they belong to.
    pub repository: Id,
    /// Opens journals, maps and footers; seeds page hashes.
    pub index: Secret,
    /// Data is sealed to this.
    pub data_public: [u8; 32],
    /// Opens data. A write-only host has none.
    pub data_secret: Option<Secret>,
    /// Signs what this process writes.
    pub signing: SigningKey,
}

impl Keyring {
    /// The id that what we write is signed with.
    pub fn signer(&self) -> Id {
        signer_id(&self.signing.public())
    }

    /// The secret data key, or an error that says what a write-only host cannot do.
    pub fn require_data_secret(&self, object: &str) -> Result<&Secret> {
        self.data_secret.as_ref().ok_or_else(|| {
            Error::denied(object, "this host holds a write-only key, which backs up but cannot restore; use a full key")
        })
    }

    /// The key that page hashes of one lineage are made with.
    pub fn page_hasher(&self, lineage: Id) -> PageHasher {
        let mut hasher = blake3::Hasher::new_keyed(self.index.expose());
        hasher.update(b"asof format 0: page hash").update(&lineage.0);
        PageHasher { key: *hasher.finalize().as_bytes() }
    }
}

/// Hashes pages: keyed BLAKE3, 128 bits, over plaintext and block number.
#[derive(Clone)]
pub struct PageHasher {
    key: [u8; 32],
}

impl PageHasher {
    /// The hash of a page that is block `block` of its file.
    pub fn hash(&self, block: u32, page: &[u8]) -> ShortDigest {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(page).update(&block.to_le_bytes());
        crypto::first_half(hasher.finalize().as_bytes())
    }
}
