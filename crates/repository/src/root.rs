//! The repository itself: `repository.json`, key files, and the journal that says who belongs to it. Format.md, "Root",
//! "Keys", "Repository journal".
//!
//! Trust starts at the root key. Its fingerprint is kept outside the repository, in the configuration; a repository that
//! shows another root key is refused by name, whatever else it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use age::secrecy::{ExposeSecret, SecretString};
use asof_world::{Id, Timestamp, World};
use serde::{Deserialize, Serialize};

use crate::crypto::{self, Secret, SigningKey};
use crate::error::{Error, Result};
use crate::journal::{Context, Journal, State};
use crate::keyring::{Keyring, Role, SignerEntry, Signers};
use crate::lineage::{self, Lineage, Parent};
use crate::names::{JournalOf, Name};
use crate::object::{FORMAT, REVISION};
use crate::serial;
use crate::store::{Created, LookingFirst, ReadRange, Store};

const ALL_ROLES: [Role; 3] = [Role::Writer, Role::Operator, Role::Collector];
const WRITE_ONLY_PREFIX: &str = "ASOF-WRITE-ONLY-KEY-1:";
/// scrypt's cost as a power of two: 256 MiB and about a second. Fixed, so that a slower machine opens what a faster one
/// sealed, and so that a forged key file cannot ask for more.
const PASSPHRASE_WORK: u8 = 18;

/// `repository.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The format of every object.
    pub format: u8,
    /// Its revision, until the format is 1.
    pub revision: u8,
    /// The repository's id.
    #[serde(with = "serial::id")]
    pub repository: Id,
    /// The key that everything is believed from.
    #[serde(with = "serial::digest")]
    pub root_key: [u8; 32],
    /// The key that data is sealed to.
    #[serde(with = "serial::digest")]
    pub data_key: [u8; 32],
    /// When it was made, in microseconds since 1970.
    pub created: i64,
    /// Whether the operator vouched that there is only one writer, because the store has no create-if-absent.
    pub single_writer: bool,
    /// The root key's signature over all of the above.
    pub signature: String,
}

impl Root {
    fn message(&self) -> Vec<u8> {
        let (id, root, data) = (self.repository, hex::encode(self.root_key), hex::encode(self.data_key));
        let head = format!("asof format 0: repository\n{}.{}\n", self.format, self.revision);
        format!("{head}{id}\n{root}\n{data}\n{}\n{}\n", self.created, self.single_writer).into_bytes()
    }

    fn is_signed(&self) -> bool {
        serial::digits(&self.signature)
            .is_some_and(|signature| crypto::signature_holds(&self.root_key, &self.message(), &signature))
    }

    /// The root key's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(crypto::short_digest(&self.root_key))
    }
}

/// What the configuration remembers of the root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", Id(self.0))
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = asof_world::ids::InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.parse::<Id>()?.0))
    }
}

/// What opens a repository: the content of a key file.
pub enum Key {
    /// Opens one of the repository's `keys/`: all rights of that recipient.
    Full(age::x25519::Identity),
    /// Opens the one among the repository's `keys/` that was sealed to it: all rights of that recipient.
    Passphrase(SecretString),
    /// Backs up, lists and checks; cannot restore.
    WriteOnly {
        /// The index key.
        index: Secret,
        /// Data is sealed to this.
        data_public: [u8; 32],
        /// The host's own signing key.
        signing: SigningKey,
    },
}

impl Key {
    /// Reads the text of a key file; lines that begin with `#` are comments.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let [line] = lines.collect::<Vec<_>>()[..] else {
            return Err(Error::invalid("a key file holds one line besides its comments"));
        };
        if let Some(secret) = line.strip_prefix(WRITE_ONLY_PREFIX) {
            let mut bytes = zeroize::Zeroizing::new([0u8; 96]);
            hex::decode_to_slice(secret, bytes.as_mut())
                .map_err(|_| Error::invalid("the write-only key in the key file is cut or changed"))?;
            let part = |n: usize| <[u8; 32]>::try_from(&bytes[32 * n..][..32]).expect("32 bytes were taken");
            let signing = SigningKey::new(Secret::new(part(2)));
            return Ok(Self::WriteOnly { index: Secret::new(part(0)), data_public: part(1), signing });
        }
        let identity = line.parse().map_err(|reason| Error::invalid(format!("the key file holds no key: {reason}")))?;
        Ok(Self::Full(identity))
    }
}

/// A fresh key file: its text, and the id of its part in the repository.
pub struct NewKey {
    /// What to write into the key file, mode 0600.
    pub text: String,
    /// The id under `keys/`.
    pub id: Id,
    recipient: age::x25519::Recipient,
}

impl NewKey {
    fn generate(repository: Id) -> Self {
        let identity = age::x25519::Identity::generate();
        let recipient = identity.to_public();
        let id = key_id(&recipient);
        let secret = identity.to_string();
        let text = format!(
            "# asof key {id} of repository {repository}\n\
             # Whoever has it can read every backup. Without it (or another key of the repository) nothing can be restored.\n\
             {}\n",
            secret.expose_secret()
        );
        Self { text, id, recipient }
    }
}

fn key_id(recipient: &age::x25519::Recipient) -> Id {
    Id(crypto::short_digest(recipient.to_string().as_bytes()))
}

/// What one recipient finds under `keys/<id>`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedKeys {
    #[serde(with = "serial::id")]
    repository: Id,
    #[serde(with = "serial::digest")]
    index: [u8; 32],
    #[serde(with = "serial::digest")]
    data: [u8; 32],
    #[serde(with = "serial::digest")]
    signing: [u8; 32],
}

impl SealedKeys {
    fn seal(keyring: &Keyring, data: &Secret, signing: &SigningKey, to: &dyn age::Recipient) -> Result<Vec<u8>> {
        let keys = Self {
            repository: keyring.repository,
            index: *keyring.index.expose(),
            data: *data.expose(),
            signing: *signing.seed().expose(),
        };
        let plain = zeroize::Zeroizing::new(serde_json::to_vec(&keys).expect("keys can be written as JSON"));
        let mut sealed = Vec::new();
        let encryptor = age::Encryptor::with_recipients(std::iter::once(to))
            .map_err(|error| Error::invalid(format!("the key cannot be sealed: {error}")))?;
        let mut writer = encryptor.wrap_output(&mut sealed).expect("memory can be written to");
        std::io::Write::write_all(&mut writer, &plain).expect("memory can be written to");
        writer.finish().expect("memory can be written to");
        Ok(sealed)
    }

    fn open(sealed: &[u8], with: &dyn age::Identity, object: &str) -> Result<Self> {
        let refused = |error: age::DecryptError| Error::denied(object, format!("this key does not open it: {error}"));
        let decryptor = age::Decryptor::new(sealed).map_err(refused)?;
        let mut reader = decryptor.decrypt(std::iter::once(with)).map_err(refused)?;
        let mut plain = zeroize::Zeroizing::new(Vec::new());
        std::io::Read::read_to_end(&mut reader, &mut plain).map_err(|error| Error::corrupt(object, error))?;
        serde_json::from_slice(&plain).map_err(|error| Error::corrupt(object, error))
    }

    fn keyring(self, root: &Root, object: &str) -> Result<Keyring> {
        if self.repository != root.repository {
            return Err(Error::denied(object, format!("it was written for repository {}", self.repository)));
        }
        let data = Secret::new(self.data);
        Ok(Keyring {
            repository: root.repository,
            index: Secret::new(self.index),
            data_public: crypto::data_public_key(&data),
            data_secret: Some(data),
            signing: SigningKey::new(Secret::new(self.signing)),
        })
    }
}

/// Whether a file under `keys/` was sealed to a passphrase.
fn takes_passphrase(sealed: &[u8]) -> bool {
    age::Decryptor::new(sealed).is_ok_and(|sealed| sealed.is_scrypt())
}

/// A file under `keys/`: one way to open the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Its name there.
    pub id: String,
    /// Who holds what opens it. The first key is older than the journal and has none.
    pub label: Option<String>,
    /// Whether a passphrase opens it, and not a key file.
    pub passphrase: bool,
}

/// An entry of the repository's journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RepositoryEntry {
    /// A signing key is believed from here on.
    SignerAdded {
        /// The public half.
        #[serde(with = "serial::digest")]
        public: [u8; 32],
        /// What it may do.
        roles: Vec<Role>,
        /// Who holds it.
        label: String,
    },
    /// A key file was added under `keys/`.
    RecipientAdded {
        /// Its id.
        #[serde(with = "serial::id")]
        key: Id,
        /// Who holds it.
        label: String,
    },
    /// The name means this lineage from here on.
    InstanceNamed {
        /// The instance.
        name: String,
        /// Its present lineage.
        #[serde(with = "serial::id")]
        lineage: Id,
    },
    /// The name means nothing from here on; its lineages stay restorable by id.
    InstanceRemoved {
        /// The instance.
        name: String,
    },
}

/// What the repository's journal adds up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RepositoryState {
    /// Whom the repository believes.
    pub signers: Signers,
    /// Labels of the recipients, by key id.
    pub recipients: BTreeMap<Id, String>,
    /// The lineages that a name stood for, newest last; empty after the name was removed.
    pub instances: BTreeMap<String, Vec<Id>>,
}

impl State for RepositoryState {
    type Entry = RepositoryEntry;

    fn role(entry: &RepositoryEntry) -> Role {
        match entry {
            RepositoryEntry::InstanceNamed { .. } => Role::Writer,
            _ => Role::Operator,
        }
    }

    fn check(&self, _: &Context, entry: &RepositoryEntry) -> Result<(), String> {
        match entry {
            RepositoryEntry::InstanceRemoved { name } if !self.instances.contains_key(name) => {
                Err(format!("there is no instance named \"{name}\""))
            }
            _ => Ok(()),
        }
    }

    fn apply(&mut self, _: &Context, entry: RepositoryEntry) {
        match entry {
            RepositoryEntry::SignerAdded { public, roles, label } => {
                self.signers.add(SignerEntry { public, roles, label });
            }
            RepositoryEntry::RecipientAdded { key, label } => {
                self.recipients.insert(key, label);
            }
            RepositoryEntry::InstanceNamed { name, lineage } => {
                self.instances.entry(name).or_default().push(lineage);
            }
            RepositoryEntry::InstanceRemoved { name } => {
                self.instances.remove(&name);
            }
        }
    }

    fn signers<'a>(&'a self, _: &'a Signers) -> &'a Signers {
        &self.signers
    }
}

/// A repository that was opened with a key and recognised by its root.
pub struct Repository {
    /// The machine.
    pub world: World,
    /// Where it lies.
    pub store: Arc<dyn Store>,
    /// `repository.json`.
    pub root: Root,
    /// What this process can open and sign.
    pub keyring: Keyring,
    /// Its journal.
    pub journal: Journal<RepositoryState>,
}

/// Makes a repository and its first key, which may do everything.
///
/// `repository.json` is written last and only if absent: before it there is no repository, after it a whole one.
pub async fn init(world: &World, store: Arc<dyn Store>, single_writer: bool) -> Result<(Repository, NewKey)> {
    if let Some(root) = read_root(store.as_ref()).await? {
        let found = format!("repository {} (root key {})", root.repository, root.fingerprint());
        return Err(Error::conflict(store.place(), format!("there is {found} already")));
    }
    let repository = world.id();
    let (data, signing) = (Secret::random(world), SigningKey::new(Secret::random(world)));
    let data_public = crypto::data_public_key(&data);
    let index = Secret::random(world);
    let keyring = Keyring { repository, index, data_public, data_secret: Some(data.clone()), signing: signing.clone() };
    let key = NewKey::generate(repository);
    let sealed = SealedKeys::seal(&keyring, &data, &signing, &key.recipient)?;
    store.create(&Name::Key(key.id).to_string(), sealed.into()).await?;
    let root = signed_root(&keyring, world.now(), single_writer);
    let json = serde_json::to_vec_pretty(&root).expect("the root can be written as JSON");
    if store.create(&Name::Root.to_string(), json.into()).await? == Created::Exists {
        return Err(Error::conflict(store.place(), "somebody else made a repository there"));
    }
    Ok((open_with(world, store, root, keyring).await?, key))
}

fn signed_root(keyring: &Keyring, now: Timestamp, single_writer: bool) -> Root {
    let mut root = Root {
        format: FORMAT,
        revision: REVISION,
        repository: keyring.repository,
        root_key: keyring.signing.public(),
        data_key: keyring.data_public,
        created: now.0,
        single_writer,
        signature: String::new(),
    };
    root.signature = hex::encode(keyring.signing.sign(&root.message()));
    root
}

/// What every `repository.json` says, whatever its version.
#[derive(Deserialize)]
struct Version {
    format: u64,
    revision: u64,
}

/// Reads `repository.json`; `None` when there is none.
pub async fn read_root(store: &dyn Store) -> Result<Option<Root>> {
    let name = Name::Root.to_string();
    let bytes = match store.read(&name, ReadRange::Whole).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    // The version first: another one may have other fields.
    let version: Version = serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(&name, error))?;
    if (version.format, version.revision) != (u64::from(FORMAT), u64::from(REVISION)) {
        let found = format!("format {}.{}", version.format, version.revision);
        let reason = format!("it has {found} and this asof reads {FORMAT}.{REVISION}; use the asof that wrote it");
        return Err(Error::denied(store.place(), reason));
    }
    let root: Root = serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(&name, error))?;
    if !root.is_signed() {
        return Err(Error::corrupt(&name, "the root key's signature does not hold"));
    }
    Ok(Some(root))
}

/// Opens a repository. `expected` is the fingerprint from the configuration; a bare machine has none and shows what it found.
pub async fn open(
    world: &World,
    store: Arc<dyn Store>,
    key: &Key,
    expected: Option<Fingerprint>,
) -> Result<Repository> {
    let root = read_root(store.as_ref())
        .await?
        .ok_or_else(|| Error::NotFound { object: format!("{} (looked for it in {})", Name::Root, store.place()) })?;
    if let Some(expected) = expected.filter(|expected| *expected != root.fingerprint()) {
        let found = format!("its root key is {}, the configuration expects {expected}", root.fingerprint());
        return Err(Error::denied(store.place(), format!("{found}: this is not the repository that was set up here")));
    }
    let keyring = match key {
        Key::Full(identity) => full_keyring(store.as_ref(), &root, identity).await?,
        Key::Passphrase(passphrase) => passphrase_keyring(store.as_ref(), &root, passphrase).await?,
        Key::WriteOnly { index, data_public, signing } => Keyring {
            repository: root.repository,
            index: index.clone(),
            data_public: *data_public,
            data_secret: None,
            signing: signing.clone(),
        },
    };
    if keyring.data_public != root.data_key {
        return Err(Error::denied(store.place(), "the key belongs to another repository"));
    }
    open_with(world, store, root, keyring).await
}

async fn full_keyring(store: &dyn Store, root: &Root, identity: &age::x25519::Identity) -> Result<Keyring> {
    let name = Name::Key(key_id(&identity.to_public())).to_string();
    let sealed = match store.read(&name, ReadRange::Whole).await {
        Err(error) if error.is_not_found() => {
            return Err(Error::denied(store.place(), format!("the key file opens no key of this repository ({name})")));
        }
        other => other?,
    };
    SealedKeys::open(&sealed, identity, &name)?.keyring(root, &name)
}

/// Tries the passphrase on every key file that is sealed to one. The listing only helps to find it: a passphrase that opens
/// none of the files listed is refused, and nothing else follows from that.
async fn passphrase_keyring(store: &dyn Store, root: &Root, passphrase: &SecretString) -> Result<Keyring> {
    let mut identity = age::scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(PASSPHRASE_WORK);
    for listed in store.list("keys/").await? {
        let sealed = store.read(&listed.name, ReadRange::Whole).await?;
        if takes_passphrase(&sealed)
            && let Ok(keys) = SealedKeys::open(&sealed, &identity, &listed.name)
        {
            return keys.keyring(root, &listed.name);
        }
    }
    Err(Error::denied(store.place(), "the passphrase opens none of the keys that the store lists"))
}

async fn open_with(world: &World, store: Arc<dyn Store>, root: Root, keyring: Keyring) -> Result<Repository> {
    let store: Arc<dyn Store> = if root.single_writer { Arc::new(LookingFirst::new(store)) } else { store };
    let mut state = RepositoryState::default();
    let label = "root".to_owned();
    state.signers.add(SignerEntry { public: root.root_key, roles: ALL_ROLES.to_vec(), label });
    let (journal_store, keys) = (store.clone(), keyring.clone());
    let journal =
        Journal::open(world.clone(), journal_store, keys, Signers::default(), JournalOf::Repository, state).await?;
    Ok(Repository { world: world.clone(), store, root, keyring, journal })
}

impl Repository {
    /// Opens the journal of a lineage, whether it has entries or not.
    pub async fn lineage(&self, lineage: Id) -> Result<Journal<Lineage>> {
        let (world, store, keys) = (self.world.clone(), self.store.clone(), self.keyring.clone());
        let signers = self.journal.signers().clone();
        Journal::open(world, store, keys, signers, JournalOf::Lineage(lineage), Lineage::default()).await
    }

    /// Registers a new lineage under the name of an instance.
    pub async fn register(
        &mut self,
        instance: &str,
        facts: BTreeMap<String, serde_json::Value>,
        parent: Option<Parent>,
    ) -> Result<(Id, Journal<Lineage>)> {
        let id = self.world.id();
        let mut journal = self.lineage(id).await?;
        journal.append(0, lineage::Entry::Registered { facts, parent }).await?;
        let name = instance.to_owned();
        self.journal.append(0, RepositoryEntry::InstanceNamed { name, lineage: id }).await?;
        Ok((id, journal))
    }

    /// The present lineage of an instance.
    pub fn lineage_of(&self, instance: &str) -> Option<Id> {
        self.journal.state().instances.get(instance).and_then(|lineages| lineages.last()).copied()
    }

    /// Every file under `keys/`, by name. Of a key in the journal whose file is not listed nothing is said.
    pub async fn recipients(&self) -> Result<Vec<Recipient>> {
        let labels: BTreeMap<String, &String> =
            self.journal.state().recipients.iter().map(|(id, label)| (id.to_string(), label)).collect();
        let mut files = self.store.list("keys/").await?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut recipients = Vec::new();
        for file in files {
            let id = file.name.trim_start_matches("keys/").to_owned();
            let passphrase = takes_passphrase(&self.store.read(&file.name, ReadRange::Whole).await?);
            recipients.push(Recipient { label: labels.get(&id).map(|label| (*label).clone()), id, passphrase });
        }
        Ok(recipients)
    }

    /// Adds a key file with all rights. Its part in the repository is written before the journal names it.
    pub async fn add_key(&mut self, label: &str) -> Result<NewKey> {
        let data = self.keyring.require_data_secret("a new key")?.clone();
        let key = NewKey::generate(self.root.repository);
        let signing = SigningKey::new(Secret::random(&self.world));
        let sealed = SealedKeys::seal(&self.keyring, &data, &signing, &key.recipient)?;
        self.store_key(key.id, sealed, label, &signing).await?;
        Ok(key)
    }

    /// Adds a recipient that opens the repository with a passphrase, for the case that every key file is lost.
    pub async fn add_passphrase(&mut self, label: &str, passphrase: SecretString) -> Result<Id> {
        let data = self.keyring.require_data_secret("a new key")?.clone();
        let id = self.world.id();
        let signing = SigningKey::new(Secret::random(&self.world));
        let mut recipient = age::scrypt::Recipient::new(passphrase);
        recipient.set_work_factor(PASSPHRASE_WORK);
        let sealed = SealedKeys::seal(&self.keyring, &data, &signing, &recipient)?;
        self.store_key(id, sealed, label, &signing).await?;
        Ok(id)
    }

    async fn store_key(&mut self, id: Id, sealed: Vec<u8>, label: &str, signing: &SigningKey) -> Result<()> {
        self.store.create(&Name::Key(id).to_string(), sealed.into()).await?;
        self.add_signer(signing, &ALL_ROLES, label).await?;
        let label = label.to_owned();
        self.journal.append(0, RepositoryEntry::RecipientAdded { key: id, label }).await?;
        Ok(())
    }

    /// Makes the text of a write-only key file: backs up, cannot restore, cannot delete.
    pub async fn add_write_only(&mut self, label: &str) -> Result<String> {
        let signing = SigningKey::new(Secret::random(&self.world));
        self.add_signer(&signing, &[Role::Writer], label).await?;
        let parts = [self.keyring.index.expose(), &self.keyring.data_public, signing.seed().expose()];
        let secret: String = parts.iter().map(hex::encode).collect();
        let about = format!("# asof write-only key ({label}) of repository {}\n", self.root.repository);
        Ok(format!("{about}# It backs up and lists; it cannot restore or delete.\n{WRITE_ONLY_PREFIX}{secret}\n"))
    }

    async fn add_signer(&mut self, signing: &SigningKey, roles: &[Role], label: &str) -> Result<()> {
        let (public, roles, label) = (signing.public(), roles.to_vec(), label.to_owned());
        self.journal.append(0, RepositoryEntry::SignerAdded { public, roles, label }).await?;
        Ok(())
    }
}
