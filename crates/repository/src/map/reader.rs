//! Reads a stored map, one part after the other: a whole one is needed by nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use asof_world::Id;
use bytes::Bytes;

use super::PageMap;
use super::index::{MapIndex, PartEntry};
use super::part;
use crate::crypto::Digest;
use crate::error::{Error, Result};
use crate::keyring::{Keyring, Signers};
use crate::names::Name;
use crate::object::{self, Kind, Opened};
use crate::store::{ReadRange, Store};

/// Nearly every index of a map fits into this many last bytes.
const INDEX_GUESS: u64 = 128 << 10;
/// Who reads one part after the other reads this many bytes at once: neighbours mostly lie together.
const READ_AHEAD: u64 = 1 << 20;

/// A map whose index was read. Its parts are read when they are asked for.
pub struct StoredMap {
    store: Arc<dyn Store>,
    keyring: Keyring,
    signers: Signers,
    lineage: Id,
    attempt: Id,
    digest: Digest,
    index: MapIndex,
    /// The objects that hold parts, as far as they were opened.
    owners: Mutex<HashMap<u32, Arc<Opened>>>,
}

/// Reads and authenticates the index of a backup's map. `digest` is what the commit entry recorded.
pub async fn open_map(
    store: Arc<dyn Store>,
    keyring: &Keyring,
    signers: &Signers,
    lineage: Id,
    attempt: Id,
    digest: &Digest,
) -> Result<StoredMap> {
    let name = Name::Map { lineage, attempt };
    let (opened, index) = open_object(store.as_ref(), keyring, signers, name, digest).await?;
    let (keyring, signers) = (keyring.clone(), signers.clone());
    let owners = Mutex::new(HashMap::from([(0, Arc::new(opened))]));
    Ok(StoredMap { store, keyring, signers, lineage, attempt, digest: *digest, index, owners })
}

async fn open_object(
    store: &dyn Store,
    keyring: &Keyring,
    signers: &Signers,
    name: Name,
    digest: &Digest,
) -> Result<(Opened, MapIndex)> {
    let mut opened = object::read_index(store, keyring, signers, name, Kind::Map, INDEX_GUESS).await?;
    if opened.reference.digest != *digest {
        return Err(Error::corrupt(name, "it is another map than the one that was recorded"));
    }
    let plain = std::mem::take(&mut opened.index);
    let index = MapIndex::decode(&plain).map_err(|reason| Error::corrupt(name, reason))?;
    if index.owners.is_empty() && !index.parts.is_empty() || !valid_page_size(index.page_size) {
        return Err(Error::corrupt(name, "its index is impossible"));
    }
    Ok((opened, index))
}

fn valid_page_size(size: u32) -> bool {
    size.is_power_of_two() && (512..=65536).contains(&size)
}

impl StoredMap {
    /// Bytes in a page.
    pub fn page_size(&self) -> u32 {
        self.index.page_size
    }

    /// One part, by its number from 0.
    pub async fn part(&self, at: usize) -> Result<PageMap> {
        self.part_near(at, &mut None).await
    }

    async fn part_near(&self, at: usize, ahead: &mut Option<Ahead>) -> Result<PageMap> {
        let (plain, number, name) = self.plain(&self.index.parts[at], ahead).await?;
        part::decode(self.page_size(), self.lineage, &plain)
            .map_err(|reason| Error::corrupt(name, format!("part {number}: {reason}")))
    }

    /// All parts from number `at` on.
    pub fn parts(self: &Arc<Self>, at: usize) -> Parts {
        Parts { map: self.clone(), next: at, last: Vec::new(), current: None, ahead: Some(Ahead::default()) }
    }

    /// The number of the first part with a file whose path is `path` or behind it; that of no part when there is none.
    pub async fn reach(&self, path: &[u8]) -> Result<usize> {
        let (mut low, mut high) = (0, self.index.parts.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.part(middle).await?.files.last() {
                Some(last) if last.path.as_slice() >= path => high = middle,
                // Directories come before all files.
                _ => low = middle + 1,
            }
        }
        Ok(low)
    }

    /// The part with the file of this path.
    pub async fn find(&self, path: &[u8]) -> Result<Option<PageMap>> {
        let at = self.reach(path).await?;
        if at == self.index.parts.len() {
            return Ok(None);
        }
        Ok(Some(self.part(at).await?).filter(|part| part.file(path).is_some()))
    }

    /// All parts in one: for the small maps of tests and simulations.
    pub async fn whole(&self) -> Result<PageMap> {
        let mut map = PageMap { page_size: self.page_size(), ..PageMap::default() };
        let mut packs = HashMap::new();
        let mut ahead = Some(Ahead::default());
        for entry in &self.index.parts {
            let (plain, number, name) = self.plain(entry, &mut ahead).await?;
            map.take_part(self.lineage, &plain, &mut packs)
                .map_err(|reason| Error::corrupt(name, format!("part {number}: {reason}")))?;
        }
        map.packs.iter_mut().for_each(|pack| pack.frames.shrink());
        Ok(map)
    }

    /// Where every part lies, by its content: the attempt and digest of the map object, and the section.
    pub(super) fn by_content(&self) -> HashMap<Digest, (Id, Digest, PartEntry)> {
        let located = |entry: &PartEntry| {
            let (owner, digest) = self.owner(entry.owner);
            (entry.content, (owner, digest, entry.clone()))
        };
        self.index.parts.iter().map(located).collect()
    }

    fn owner(&self, owner: u32) -> (Id, Digest) {
        if owner == 0 { (self.attempt, self.digest) } else { self.index.owners[owner as usize] }
    }

    /// The plaintext of a part, its number, and the object that holds it. More than that is read where there is an `ahead`.
    async fn plain(&self, entry: &PartEntry, ahead: &mut Option<Ahead>) -> Result<(Vec<u8>, u32, Name)> {
        let (attempt, digest) = self.owner(entry.owner);
        let name = Name::Map { lineage: self.lineage, attempt };
        let known = self.owners.lock().expect("no holder panics").get(&entry.owner).cloned();
        let opened = match known {
            Some(opened) => opened,
            None => {
                let store = self.store.as_ref();
                let (opened, _) = open_object(store, &self.keyring, &self.signers, name, &digest).await?;
                let opened = Arc::new(opened);
                self.owners.lock().expect("no holder panics").insert(entry.owner, opened.clone());
                opened
            }
        };
        let (offset, len) = (entry.section.offset, u64::from(entry.section.stored_len));
        if let Some(bytes) = ahead.as_ref().and_then(|ahead| ahead.get(entry)) {
            return Ok((opened.open_index_section(entry.number, &entry.section, &bytes)?, entry.number, name));
        }
        let wanted = if ahead.is_some() { READ_AHEAD.min(opened.len.saturating_sub(offset)).max(len) } else { len };
        let bytes = self.store.read(&name.to_string(), ReadRange::Part { offset, len: wanted }).await?;
        if let Some(ahead) = ahead {
            *ahead = Ahead { owner: entry.owner, offset, bytes: bytes.clone() };
        }
        let bytes = bytes.slice(..bytes.len().min(entry.section.stored_len as usize));
        Ok((opened.open_index_section(entry.number, &entry.section, &bytes)?, entry.number, name))
    }
}

/// Bytes of a map object that are in memory.
#[derive(Default)]
struct Ahead {
    owner: u32,
    offset: u64,
    bytes: Bytes,
}

impl Ahead {
    /// The stored bytes of a part.
    fn get(&self, entry: &PartEntry) -> Option<Bytes> {
        let from = usize::try_from(entry.section.offset.checked_sub(self.offset)?).ok()?;
        let end = from.checked_add(entry.section.stored_len as usize)?;
        (entry.owner == self.owner && end <= self.bytes.len()).then(|| self.bytes.slice(from..end))
    }
}

/// The parts of a map, one after the other.
pub struct Parts {
    map: Arc<StoredMap>,
    next: usize,
    /// The path before the next part.
    last: Vec<u8>,
    current: Option<Arc<PageMap>>,
    ahead: Option<Ahead>,
}

impl Parts {
    /// The next part; nothing behind the last.
    pub async fn next(&mut self) -> Result<Option<Arc<PageMap>>> {
        self.current = None;
        if self.next >= self.map.index.parts.len() {
            return Ok(None);
        }
        let part = self.map.part_near(self.next, &mut self.ahead).await?;
        if let (Some(first), Some(last)) = (part.files.first(), part.files.last()) {
            if !self.last.is_empty() && first.path <= self.last {
                let name = Name::Map { lineage: self.map.lineage, attempt: self.map.attempt };
                return Err(Error::corrupt(name, "its files are not in order"));
            }
            self.last.clone_from(&last.path);
        }
        self.next += 1;
        self.current = Some(Arc::new(part));
        Ok(self.current.clone())
    }

    /// The part with the file of this path. Paths have to be asked for in order: what lies before is not looked at again.
    pub async fn holding(&mut self, path: &[u8]) -> Result<Option<Arc<PageMap>>> {
        loop {
            let reaches = |part: &&Arc<PageMap>| part.files.last().is_some_and(|last| last.path.as_slice() >= path);
            if let Some(part) = self.current.as_ref().filter(reaches) {
                return Ok(part.file(path).is_some().then(|| part.clone()));
            }
            if self.next().await?.is_none() {
                return Ok(None);
            }
        }
    }
}
