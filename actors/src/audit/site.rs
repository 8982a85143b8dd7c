//! A read-only view of the audited tree for one run.
//!
//! Owns every disk access of checking: reading files within the root, asking
//! whether a path exists (by directory listings, so that a case-insensitive
//! disk does not hide a wrong spelling), and other files' anchors. Leaves out
//! any judgement.
//!
//! Invariants: nothing outside the root is ever opened, whatever links lead
//! there; only regular files are read, at most `file_bytes_max` bytes of each;
//! both caches are bounded and simply start over when full. A `Site` sees the
//! tree as of its first look: share one among the batches of a run (each target's
//! anchors are then parsed once), and open a new one for the next run.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::document::Document;
use super::inventory::{FileKind, InventoryError, Limits, open_root};
use super::slug::Anchors;

/// Directory entries cached before the cache starts over.
const LISTED_ENTRIES_MAX: usize = 200_000;
/// Anchors cached before the cache starts over.
const CACHED_ANCHORS_MAX: usize = 200_000;
/// A directory with more entries is asked name by name instead.
const LISTING_ENTRIES_MAX: usize = 20_000;
/// How far up an enclosing repository is looked for.
const REPOSITORY_LEVELS_MAX: usize = 32;

/// The tree that the files of one run are checked against.
///
/// Cheap to make; `Send` and `Sync`. Every method may block on the disk.
#[derive(Debug)]
pub struct Site {
    root: PathBuf,
    repository: Option<PathBuf>,
    limits: Limits,
    listings: Mutex<Listings>,
    anchors: Mutex<AnchorCache>,
}

#[derive(Debug, Default)]
struct Listings {
    by_directory: HashMap<String, Arc<Listing>>,
    entries: usize,
}

#[derive(Debug, Default)]
struct AnchorCache {
    by_path: HashMap<String, Option<Arc<Anchors>>>,
    anchors: usize,
}

/// One directory as it was first seen.
#[derive(Debug)]
enum Listing {
    Names(HashMap<String, EntryKind>),
    /// Too large to hold; ask the disk.
    Huge,
    /// It exists but cannot be listed.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    File,
    Directory,
    SymbolicLink,
}

/// What is at a path inside the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Presence {
    File,
    Directory,
    /// Something that cannot or must not be looked into: never judged.
    Opaque,
    /// Nothing; a path that differs only in case may exist.
    Missing {
        other_case: Option<String>,
    },
}

/// Why a file gave no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadFailure {
    Missing,
    /// Not a regular file within the root.
    NotAFile,
    Oversized {
        bytes: u64,
    },
    Unreadable {
        why: String,
    },
}

impl Site {
    /// Opens the tree at `root`.
    ///
    /// # Errors
    ///
    /// [`InventoryError`] when it is missing, no directory or unreadable.
    pub fn open(root: &Path, limits: &Limits) -> Result<Site, InventoryError> {
        let root = open_root(root)?;
        let repository = enclosing_repository(&root);
        Ok(Site {
            root,
            repository,
            limits: limits.clone(),
            listings: Mutex::default(),
            anchors: Mutex::default(),
        })
    }

    /// The audited directory, canonical.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bounds it was opened with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The repository around the root, if the root is not its top.
    pub(crate) fn repository(&self) -> Option<&Path> {
        self.repository.as_deref()
    }

    /// Reads a regular file that lies inside the root.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, ReadFailure> {
        let wanted = self.absolute(path).ok_or(ReadFailure::NotAFile)?;
        let real = wanted.canonicalize().map_err(|err| failure(&err))?;
        if !real.starts_with(&self.root) {
            return Err(ReadFailure::NotAFile);
        }
        // Asked before opening: opening a pipe would wait for its other end.
        let metadata = fs::metadata(&real).map_err(|err| failure(&err))?;
        if !metadata.is_file() {
            return Err(ReadFailure::NotAFile);
        }
        let bytes_max = self.limits.file_bytes_max;
        if bytes_max < metadata.len() {
            return Err(ReadFailure::Oversized {
                bytes: metadata.len(),
            });
        }
        let file = File::open(&real).map_err(|err| failure(&err))?;
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
        file.take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|err| failure(&err))?;
        let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if bytes_max < read {
            return Err(ReadFailure::Oversized { bytes: read });
        }
        Ok(bytes)
    }

    /// The path on disk of a relative path that stays inside the root.
    pub(crate) fn absolute(&self, path: &str) -> Option<PathBuf> {
        let inside = Path::new(path)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        inside.then(|| self.root.join(path))
    }

    /// What is at this normalised relative path; `""` is the root.
    pub(crate) fn presence(&self, path: &str) -> Presence {
        let mut directory = String::new();
        let mut spelled = String::new();
        let mut other_case = false;
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        if parts.peek().is_none() {
            return Presence::Directory;
        }
        while let Some(part) = parts.next() {
            let (name, kind) = match self.look_up(&directory, part) {
                Lookup::Entry(kind) => (part.to_owned(), kind),
                Lookup::OtherCase(name, kind) => {
                    other_case = true;
                    (name, kind)
                }
                Lookup::Unknown => return Presence::Opaque,
                Lookup::Missing => return Presence::Missing { other_case: None },
            };
            let separator = if spelled.is_empty() { "" } else { "/" };
            spelled.push_str(separator);
            spelled.push_str(&name);
            let presence = match kind {
                EntryKind::File => Presence::File,
                EntryKind::Directory => Presence::Directory,
                EntryKind::SymbolicLink => self.behind_link(&spelled),
            };
            let last = parts.peek().is_none();
            match presence {
                Presence::Directory if !last => directory.clone_from(&spelled),
                Presence::File if !last => return Presence::Missing { other_case: None },
                Presence::Opaque | Presence::Missing { .. } => return presence,
                Presence::File | Presence::Directory if other_case => {
                    return Presence::Missing {
                        other_case: Some(spelled),
                    };
                }
                Presence::File | Presence::Directory => return presence,
            }
        }
        Presence::Opaque
    }

    /// The anchors of a Markdown file in the tree; `None` if unknown.
    pub(crate) fn anchors(&self, path: &str) -> Option<Arc<Anchors>> {
        if FileKind::of(path) != Some(FileKind::Markdown) {
            return None;
        }
        if let Some(known) = self.anchors.lock().by_path.get(path) {
            return known.clone();
        }
        let anchors = self
            .read(path)
            .ok()
            .filter(|bytes| !bytes.contains(&0))
            .map(|bytes| {
                let text = String::from_utf8_lossy(&bytes);
                Arc::new(Document::parse(&text).anchors)
            });
        self.remember_anchors(path, anchors.clone());
        anchors
    }

    pub(crate) fn remember_anchors(&self, path: &str, anchors: Option<Arc<Anchors>>) {
        let count = anchors.as_ref().map_or(0, |anchors| anchors.len()) + 1;
        let mut cache = self.anchors.lock();
        if CACHED_ANCHORS_MAX < cache.anchors + count {
            *cache = AnchorCache::default();
        }
        cache.anchors += count;
        cache.by_path.insert(path.to_owned(), anchors);
    }

    fn look_up(&self, directory: &str, name: &str) -> Lookup {
        match &*self.listing(directory) {
            Listing::Closed => Lookup::Unknown,
            Listing::Huge => match fs::symlink_metadata(self.root.join(directory).join(name)) {
                Ok(metadata) => Lookup::Entry(kind_of(metadata.file_type())),
                Err(err) if is_missing(&err) => Lookup::Missing,
                Err(_unknown) => Lookup::Unknown,
            },
            Listing::Names(names) => {
                if let Some(kind) = names.get(name) {
                    return Lookup::Entry(*kind);
                }
                let wanted = name.to_lowercase();
                match names
                    .iter()
                    .filter(|(other, _)| other.to_lowercase() == wanted)
                    .min_by_key(|(other, _)| other.as_str())
                {
                    Some((other, kind)) => Lookup::OtherCase(other.clone(), *kind),
                    None => Lookup::Missing,
                }
            }
        }
    }

    fn listing(&self, directory: &str) -> Arc<Listing> {
        if let Some(known) = self.listings.lock().by_directory.get(directory) {
            return Arc::clone(known);
        }
        let listing = Arc::new(list(&self.root.join(directory)));
        let entries = match &*listing {
            Listing::Names(names) => names.len() + 1,
            Listing::Huge | Listing::Closed => 1,
        };
        let mut listings = self.listings.lock();
        if LISTED_ENTRIES_MAX < listings.entries + entries {
            *listings = Listings::default();
        }
        listings.entries += entries;
        listings
            .by_directory
            .insert(directory.to_owned(), Arc::clone(&listing));
        listing
    }

    /// A link that dangles is missing; one that leaves the tree is opaque.
    fn behind_link(&self, path: &str) -> Presence {
        match self.root.join(path).canonicalize() {
            Ok(real) if !real.starts_with(&self.root) => Presence::Opaque,
            Ok(real) if real.is_dir() => Presence::Directory,
            Ok(_file) => Presence::File,
            Err(err) if is_missing(&err) => Presence::Missing { other_case: None },
            Err(_loop_or_denied) => Presence::Opaque,
        }
    }
}

/// What a directory says about one name.
enum Lookup {
    Entry(EntryKind),
    OtherCase(String, EntryKind),
    Missing,
    Unknown,
}

fn list(directory: &Path) -> Listing {
    let Ok(entries) = fs::read_dir(directory) else {
        return Listing::Closed;
    };
    let mut names = HashMap::new();
    for entry in entries {
        let Ok(entry) = entry else {
            return Listing::Closed;
        };
        if LISTING_ENTRIES_MAX <= names.len() {
            return Listing::Huge;
        }
        let (Ok(name), Ok(file_type)) = (entry.file_name().into_string(), entry.file_type()) else {
            continue;
        };
        names.insert(name, kind_of(file_type));
    }
    Listing::Names(names)
}

fn kind_of(file_type: fs::FileType) -> EntryKind {
    if file_type.is_symlink() {
        EntryKind::SymbolicLink
    } else if file_type.is_dir() {
        EntryKind::Directory
    } else {
        EntryKind::File
    }
}

pub(crate) fn is_missing(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput
    )
}

fn failure(err: &io::Error) -> ReadFailure {
    if is_missing(err) {
        ReadFailure::Missing
    } else {
        ReadFailure::Unreadable {
            why: err.to_string(),
        }
    }
}

fn enclosing_repository(root: &Path) -> Option<PathBuf> {
    if root.join(".git").exists() {
        return None;
    }
    root.ancestors()
        .skip(1)
        .take(REPOSITORY_LEVELS_MAX)
        .find(|directory| directory.join(".git").exists())
        .map(Path::to_path_buf)
}
