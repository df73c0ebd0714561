//! The place of one lineage in a repository: what every procedure that reads or writes it needs.

use std::sync::Arc;

use asof_repository::journal::Journal;
use asof_repository::keyring::{Keyring, Signers};
use asof_repository::lineage::Lineage;
use asof_repository::root::Repository;
use asof_repository::store::Store;
use asof_world::{Id, World};

use crate::error::Result;

/// The place of one lineage in a repository. Cheap to clone.
#[derive(Clone)]
pub struct Shelf {
    /// The machine.
    pub world: World,
    /// Where the repository lies.
    pub store: Arc<dyn Store>,
    /// What this process can open and sign.
    pub keyring: Keyring,
    /// Whom the repository believes.
    pub signers: Signers,
    /// The lineage.
    pub lineage: Id,
}

impl Shelf {
    /// The place of `lineage` in `repository`.
    pub fn new(repository: &Repository, lineage: Id) -> Self {
        Self {
            world: repository.world.clone(),
            store: repository.store.clone(),
            keyring: repository.keyring.clone(),
            signers: repository.journal.signers().clone(),
            lineage,
        }
    }

    /// Reads the lineage's journal.
    pub async fn journal(&self) -> Result<Journal<Lineage>> {
        let of = asof_repository::names::JournalOf::Lineage(self.lineage);
        let (world, store, keyring) = (self.world.clone(), self.store.clone(), self.keyring.clone());
        Ok(Journal::open(world, store, keyring, self.signers.clone(), of, Lineage::default()).await?)
    }
}
