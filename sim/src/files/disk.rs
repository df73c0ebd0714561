//! What is on the disk: files, directories and links, and the calls that change them.
//!
//! A tree of nodes behind paths, as a kernel shows it. What of a node is durable, [`super::unsynced`] knows.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use asof_world::{Attributes, DirEntry, FileKind, Owner, Timestamp};

use super::unsynced::{Content, Directory, Edit, Names, Naming, Survivors};

const ENOENT: i32 = 2;
pub(super) const EIO: i32 = 5;
const EPERM: i32 = 1;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
pub(super) const ENOSPC: i32 = 28;
const ENOTEMPTY: i32 = 39;
const ELOOP: i32 = 40;

const ROOT: u64 = 1;
/// As many symbolic links as Linux follows in one path.
const MOST_LINKS: u32 = 40;

fn errno<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

/// A change that a process asks for.
#[derive(Clone, Copy)]
pub(super) enum Mutation<'a> {
    Create { path: &'a Path, mode: u32 },
    Write { file: u64, offset: u64, bytes: &'a [u8] },
    SetLen { file: u64, len: u64 },
    Sync { file: u64 },
    Link { existing: &'a Path, new: &'a Path },
    Rename { from: &'a Path, to: &'a Path },
    RemoveFile { path: &'a Path },
    RemoveDir { path: &'a Path },
    CreateDir { path: &'a Path, mode: u32 },
    Symlink { target: &'a Path, link: &'a Path },
    SetOwner { path: &'a Path, owner: Owner },
    SetMode { path: &'a Path, mode: u32 },
    SyncDir { path: &'a Path },
}

impl Mutation<'_> {
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Write { .. } => "write",
            Self::SetLen { .. } => "set_len",
            Self::Sync { .. } => "sync",
            Self::Link { .. } => "link",
            Self::Rename { .. } => "rename",
            Self::RemoveFile { .. } => "remove_file",
            Self::RemoveDir { .. } => "remove_dir",
            Self::CreateDir { .. } => "create_dir",
            Self::Symlink { .. } => "symlink",
            Self::SetOwner { .. } => "set_owner",
            Self::SetMode { .. } => "set_mode",
            Self::SyncDir { .. } => "sync_dir",
        }
    }
}

#[derive(Clone)]
pub(super) struct Disk {
    nodes: BTreeMap<u64, Arc<Node>>,
    last: u64,
}

#[derive(Clone)]
struct Node {
    body: Body,
    mode: u32,
    owner: Owner,
    modified: Timestamp,
}

#[derive(Clone)]
enum Body {
    File(Content),
    Directory(Directory),
    Symlink(PathBuf),
}

impl Default for Disk {
    fn default() -> Self {
        let root = Node::new(Body::Directory(Directory::default()), 0o755, Timestamp(0));
        Self { nodes: BTreeMap::from([(ROOT, Arc::new(root))]), last: ROOT }
    }
}

impl Node {
    fn new(body: Body, mode: u32, modified: Timestamp) -> Self {
        Self { body, mode, owner: Owner { uid: 0, gid: 0 }, modified }
    }

    fn kind(&self) -> FileKind {
        match self.body {
            Body::File(_) => FileKind::File,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
        }
    }
}

// ---- Finding things --------------------------------------------------------------------------------------------------

impl Disk {
    fn node(&self, node: u64) -> io::Result<&Node> {
        self.nodes.get(&node).map_or_else(|| errno(ENOENT), |node| Ok(node.as_ref()))
    }

    fn node_mut(&mut self, node: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&node).map_or_else(|| errno(ENOENT), |node| Ok(Arc::make_mut(node)))
    }

    fn names(&self, directory: u64) -> io::Result<&Names> {
        match &self.node(directory)?.body {
            Body::Directory(directory) => Ok(&directory.now),
            _ => errno(ENOTDIR),
        }
    }

    fn content(&self, file: u64) -> io::Result<&Content> {
        match &self.node(file)?.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => errno(EISDIR),
            Body::Symlink(_) => errno(ELOOP),
        }
    }

    fn content_mut(&mut self, file: u64) -> io::Result<&mut Content> {
        match &mut self.node_mut(file)?.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => errno(EISDIR),
            Body::Symlink(_) => errno(ELOOP),
        }
    }

    fn directory_mut(&mut self, directory: u64) -> io::Result<&mut Directory> {
        match &mut self.node_mut(directory)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => errno(ENOTDIR),
        }
    }

    /// The node of a path; links on the way are followed, a link at the end is not.
    fn find(&self, path: &Path) -> io::Result<u64> {
        self.walk(path, false, &mut 0)
    }

    fn walk(&self, path: &Path, follow_last: bool, links: &mut u32) -> io::Result<u64> {
        let parts: Vec<&OsStr> = parts(path)?;
        let (mut node, mut walked) = (ROOT, PathBuf::from("/"));
        for (at, part) in parts.iter().enumerate() {
            let Some(next) = self.names(node)?.get(*part).copied() else { return errno(ENOENT) };
            node = match &self.node(next)?.body {
                Body::Symlink(target) if follow_last || at + 1 < parts.len() => {
                    *links += 1;
                    if *links > MOST_LINKS {
                        return errno(ELOOP);
                    }
                    self.walk(&walked.join(target), true, links)?
                }
                _ => next,
            };
            walked.push(part);
        }
        Ok(node)
    }

    /// The directory that holds a name, and the name.
    fn place<'a>(&self, path: &'a Path) -> io::Result<(u64, &'a OsStr)> {
        let parts = parts(path)?;
        let Some((name, _)) = parts.split_last() else { return errno(EEXIST) };
        let parent = path.parent().unwrap_or(Path::new("/"));
        let directory = self.walk(parent, true, &mut 0)?;
        self.names(directory)?;
        Ok((directory, name))
    }

    /// As [`Disk::place`], for a name that must be free.
    fn free_place<'a>(&self, path: &'a Path) -> io::Result<(u64, &'a OsStr)> {
        let (directory, name) = self.place(path)?;
        if self.names(directory)?.contains_key(name) { errno(EEXIST) } else { Ok((directory, name)) }
    }

    pub(super) fn find_file(&self, path: &Path) -> io::Result<u64> {
        self.walk(path, true, &mut 0)
    }

    pub(super) fn find_file_itself(&self, path: &Path) -> io::Result<u64> {
        let file = self.find(path)?;
        self.content(file)?;
        Ok(file)
    }

    pub(super) fn read(&self, file: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let now = &self.content(file)?.now;
        let rest = usize::try_from(offset).ok().and_then(|offset| now.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    pub(super) fn file_len(&self, file: u64) -> io::Result<u64> {
        match &self.node(file)?.body {
            Body::File(content) => Ok(content.now.len() as u64),
            // What a directory says of its length is of no use to anybody; ext4 says this.
            _ => Ok(4096),
        }
    }

    pub(super) fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        match &self.node(self.find(path)?)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => errno(EINVAL),
        }
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let names = self.names(self.find(path)?)?;
        names.iter().map(|(name, node)| Ok(DirEntry { name: name.clone(), kind: self.node(*node)?.kind() })).collect()
    }

    pub(super) fn attributes(&self, path: &Path) -> io::Result<Attributes> {
        let found = self.find(path)?;
        let node = self.node(found)?;
        Ok(Attributes {
            kind: node.kind(),
            len: self.file_len(found)?,
            mode: node.mode,
            owner: node.owner,
            modified: node.modified,
            identity: (1, found),
        })
    }
}

/// The names on a path from the root; `.` is the root, since a simulated process never changes its directory.
fn parts(path: &Path) -> io::Result<Vec<&OsStr>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name),
            Component::RootDir | Component::CurDir => {}
            // Nothing of ours walks upwards; one that does is to be noticed.
            Component::ParentDir | Component::Prefix(_) => return errno(EINVAL),
        }
    }
    Ok(parts)
}

// ---- Changing things -------------------------------------------------------------------------------------------------

impl Disk {
    /// Makes a change that the processes see. The result is the node that was made, if one was.
    pub(super) fn apply(&mut self, mutation: Mutation<'_>, now: Timestamp) -> io::Result<u64> {
        match mutation {
            Mutation::Create { path, mode } => self.add(path, Node::new(Body::File(Content::default()), mode, now)),
            Mutation::CreateDir { path, mode } => {
                self.add(path, Node::new(Body::Directory(Directory::default()), mode, now))
            }
            Mutation::Symlink { target, link } => {
                self.add(link, Node::new(Body::Symlink(target.to_owned()), 0o777, now))
            }
            Mutation::Write { file, offset, bytes } => {
                let at = usize::try_from(offset).map_err(io::Error::other)?;
                self.edit(file, Edit::Write { at, bytes: bytes.to_owned() }, now)
            }
            Mutation::SetLen { file, len } => {
                let len = usize::try_from(len).map_err(io::Error::other)?;
                self.edit(file, Edit::SetLen(len), now)
            }
            Mutation::Sync { file } => {
                self.content_mut(file)?.sync();
                Ok(file)
            }
            Mutation::Link { existing, new } => self.link(existing, new),
            Mutation::Rename { from, to } => self.rename(from, to),
            Mutation::RemoveFile { path } => self.remove_file(path),
            Mutation::RemoveDir { path } => self.remove_dir(path),
            Mutation::SetOwner { path, owner } => {
                let node = self.find(path)?;
                self.node_mut(node)?.owner = owner;
                Ok(node)
            }
            Mutation::SetMode { path, mode } => {
                let node = self.walk(path, true, &mut 0)?;
                self.node_mut(node)?.mode = mode;
                Ok(node)
            }
            Mutation::SyncDir { path } => {
                let node = self.walk(path, true, &mut 0)?;
                self.directory_mut(node)?.sync();
                Ok(node)
            }
        }
    }

    /// A sync that failed: what was dirty is clean now, and not durable. Other calls change nothing.
    pub(super) fn forget(&mut self, mutation: Mutation<'_>) -> io::Result<()> {
        match mutation {
            Mutation::Sync { file } => self.content_mut(file)?.dirty.clear(),
            Mutation::SyncDir { path } => {
                let node = self.walk(path, true, &mut 0)?;
                self.directory_mut(node)?.dirty.clear();
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<u64> {
        let (directory, name) = self.free_place(path)?;
        self.last += 1;
        self.nodes.insert(self.last, Arc::new(node));
        let naming = Naming::Add(name.to_owned(), self.last);
        self.directory_mut(directory)?.change(naming);
        Ok(self.last)
    }

    fn edit(&mut self, file: u64, edit: Edit, now: Timestamp) -> io::Result<u64> {
        self.content_mut(file)?.edit(edit);
        self.node_mut(file)?.modified = now;
        Ok(file)
    }

    fn link(&mut self, existing: &Path, new: &Path) -> io::Result<u64> {
        let node = self.find(existing)?;
        if self.node(node)?.kind() == FileKind::Directory {
            return errno(EPERM);
        }
        let (directory, name) = self.free_place(new)?;
        self.directory_mut(directory)?.change(Naming::Add(name.to_owned(), node));
        Ok(node)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<u64> {
        let node = self.find(from)?;
        let (source, old) = self.place(from)?;
        let (target, new) = self.place(to)?;
        let replaced = self.names(target)?.get(new).copied();
        if replaced == Some(node) {
            return Ok(node);
        }
        self.may_replace(node, replaced)?;
        if self.node(node)?.kind() == FileKind::Directory && to.starts_with(from) {
            return errno(EINVAL);
        }
        if source == target {
            let naming = Naming::Move { from: old.to_owned(), to: new.to_owned(), node };
            self.directory_mut(source)?.change(naming);
        } else {
            self.directory_mut(target)?.change(Naming::Add(new.to_owned(), node));
            self.directory_mut(source)?.change(Naming::Remove(old.to_owned()));
        }
        Ok(node)
    }

    fn may_replace(&self, node: u64, replaced: Option<u64>) -> io::Result<()> {
        let Some(replaced) = replaced else { return Ok(()) };
        let (new, old) = (self.node(node)?.kind(), self.node(replaced)?.kind());
        match (new == FileKind::Directory, old == FileKind::Directory) {
            (false, false) => Ok(()),
            (false, true) => errno(EISDIR),
            (true, false) => errno(ENOTDIR),
            (true, true) if self.names(replaced)?.is_empty() => Ok(()),
            (true, true) => errno(ENOTEMPTY),
        }
    }

    fn remove_file(&mut self, path: &Path) -> io::Result<u64> {
        let node = self.find(path)?;
        if self.node(node)?.kind() == FileKind::Directory {
            return errno(EISDIR);
        }
        let (directory, name) = self.place(path)?;
        self.directory_mut(directory)?.change(Naming::Remove(name.to_owned()));
        Ok(node)
    }

    fn remove_dir(&mut self, path: &Path) -> io::Result<u64> {
        let node = self.find(path)?;
        if !self.names(node)?.is_empty() {
            return errno(ENOTEMPTY);
        }
        let (directory, name) = self.place(path)?;
        self.directory_mut(directory)?.change(Naming::Remove(name.to_owned()));
        Ok(node)
    }

    // ---- The power cut -----------------------------------------------------------------------------------------------

    /// The disk as it comes up after a power cut. What no name leads to is gone.
    pub(super) fn survivors(&self, survivors: &mut Survivors) -> Self {
        let mut left = Self { nodes: BTreeMap::new(), last: self.last };
        for (number, node) in &self.nodes {
            let body = match &node.body {
                Body::File(content) => Body::File(Content::durable(content.survivor(survivors))),
                Body::Directory(directory) => Body::Directory(Directory::durable(directory.survivor(survivors))),
                Body::Symlink(target) => Body::Symlink(target.clone()),
            };
            let node = Node { body, mode: node.mode, owner: node.owner, modified: node.modified };
            left.nodes.insert(*number, Arc::new(node));
        }
        let named = left.named();
        left.nodes.retain(|number, _| named.contains(number));
        left
    }

    fn named(&self) -> BTreeSet<u64> {
        let (mut named, mut open) = (BTreeSet::new(), vec![ROOT]);
        while let Some(number) = open.pop() {
            if named.insert(number)
                && let Ok(names) = self.names(number)
            {
                open.extend(names.values());
            }
        }
        named
    }
}
