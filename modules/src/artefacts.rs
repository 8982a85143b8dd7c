//! Machine code, kept for the next start under a keyed hash.
//!
//! The engine believes whatever machine code it is given, so a file is worth what proves that we
//! wrote it: BLAKE3 keyed with a secret of this folder, over the code, the module that it was made
//! of and the engine that it is for. A bit that flipped, a file that somebody put there, and one
//! of our own under another's name are all refused, removed and made again; what is refused is
//! counted and logged. The code is checked after it was read, and what was checked is what is
//! used: nothing that happens to the file afterwards matters.
//!
//! The folder is the user's alone (mode 0700), and so is the secret in it (0600). Whoever can read
//! as that user can forge, and could as well change the program.
//!
//! Nothing here is needed: all of it can be deleted at any time, also while a node runs. A crash
//! leaves at most a draft, which the next start removes. When all files together are larger than
//! they may be, the oldest go first.

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;
use parking_lot::Mutex;
use tracing::{debug, warn};

use crate::host::{Compatibility, Genuine};

/// Bytes of all files together, unless said otherwise.
pub const BYTES_MAX: u64 = 256 << 20;

const MARK: &[u8; 8] = b"regrowa1";
const SEAL_BYTES: usize = 32;
const SECRET: &str = "secret";
/// How names of files that are being written end.
const DRAFT: &str = ".draft";
const ENDING: &str = ".code";

/// The folder cannot be used. Modules can be compiled all the same, each time anew.
#[derive(Debug, thiserror::Error)]
#[error("machine code cannot be kept in {}: {problem}", folder.display())]
pub struct FolderError {
    /// Which.
    pub folder: PathBuf,
    /// Why not.
    pub problem: String,
}

/// How often what happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Code that was there and genuine.
    pub found: u64,
    /// Code that was not there.
    pub missing: u64,
    /// Files that were not ours, or not what they were.
    pub refused: u64,
    /// Files written.
    pub kept: u64,
}

/// A folder of machine code. Cheap to clone. Its calls block on the disk.
#[derive(Debug, Clone)]
pub struct Artefacts(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    secret: [u8; 32],
    bytes_max: u64,
    owner: u32,
    found: AtomicU64,
    missing: AtomicU64,
    refused: AtomicU64,
    kept: AtomicU64,
    /// One writer at a time makes room.
    writing: Mutex<()>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the secret.
        f.debug_struct("Artefacts")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// What a piece of machine code is of, and for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArtefactId {
    /// The module's BLAKE3 hash.
    pub(crate) module: [u8; 32],
    /// The engine.
    pub(crate) engine: Compatibility,
}

impl ArtefactId {
    fn file_name(&self) -> String {
        let module = blake3::Hash::from_bytes(self.module).to_hex();
        let engine = blake3::Hash::from_bytes(self.engine.0).to_hex();
        // The rest of it is under the seal.
        format!("{module}-{}{ENDING}", &engine[..16])
    }
}

impl Artefacts {
    /// Uses a folder, which is made if it is not there, with a secret of its own.
    ///
    /// # Errors
    ///
    /// [`FolderError`] when it cannot be made or read, or is another user's.
    pub fn open(folder: impl Into<PathBuf>, bytes_max: u64) -> Result<Self, FolderError> {
        let folder = folder.into();
        let opened = Self::opened(&folder, bytes_max);
        opened.map_err(|problem| FolderError { folder, problem })
    }

    fn opened(folder: &Path, bytes_max: u64) -> Result<Self, String> {
        let said = |error: io::Error| error.to_string();
        let owner = nix::unistd::geteuid().as_raw();
        match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            Ok(()) => {}
            Err(error) => return Err(error.to_string()),
        }
        let about = fs::symlink_metadata(folder).map_err(said)?;
        if !about.is_dir() {
            return Err("it is no folder".to_owned());
        }
        if about.uid() != owner {
            return Err(format!("it belongs to user {}, not to us", about.uid()));
        }
        if about.mode() & 0o077 != 0 {
            // Whatever others put there has no seal.
            fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(said)?;
        }
        for entry in fs::read_dir(folder).map_err(said)? {
            let path = entry.map_err(said)?.path();
            if path.to_string_lossy().ends_with(DRAFT) {
                // A process died while it wrote; another one's is not here.
                let _ = fs::remove_file(path);
            }
        }
        Ok(Self(Arc::new(Inner {
            secret: secret(folder, owner).map_err(said)?,
            folder: folder.to_owned(),
            bytes_max,
            owner,
            found: AtomicU64::new(0),
            missing: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            writing: Mutex::new(()),
        })))
    }

    /// How often what happened since it was opened.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            found: read(&self.0.found),
            missing: read(&self.0.missing),
            refused: read(&self.0.refused),
            kept: read(&self.0.kept),
        }
    }

    /// The machine code of that name, if it is there and proven to be ours. What is there and is
    /// not ours is removed.
    pub(crate) fn find(&self, id: &ArtefactId) -> Option<Genuine> {
        let path = self.0.folder.join(id.file_name());
        let refusal = match self.read(&path) {
            Ok(content) => match self.genuine(id, content) {
                Some(code) => {
                    self.0.found.fetch_add(1, Ordering::Relaxed);
                    return Some(code);
                }
                None => "its seal does not hold".to_owned(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.0.missing.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Err(error) => error.to_string(),
        };
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        warn!(file = %path.display(), reason = refusal, "machine code is not used, and made again");
        // What cannot be removed is refused again.
        let _ = fs::remove_file(&path);
        None
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read_own(path, self.0.owner, self.0.bytes_max)
    }

    fn genuine(&self, id: &ArtefactId, mut content: Vec<u8>) -> Option<Genuine> {
        let head = MARK.len() + SEAL_BYTES;
        let (mark, rest) = content.split_at_checked(MARK.len())?;
        let (seal, code) = rest.split_at_checked(SEAL_BYTES)?;
        let seal: [u8; SEAL_BYTES] = seal.try_into().ok()?;
        // Compared in constant time.
        let holds = mark == MARK && self.seal(id, code) == blake3::Hash::from_bytes(seal);
        holds.then(|| Genuine::proven(content.split_off(head)))
    }

    /// What proves that `code` is ours, of that module and for that engine.
    fn seal(&self, id: &ArtefactId, code: &[u8]) -> blake3::Hash {
        let mut keyed = blake3::Hasher::new_keyed(&self.0.secret);
        // All of fixed length but the last.
        keyed.update(MARK);
        keyed.update(&id.module);
        keyed.update(&id.engine.0);
        keyed.update(code);
        keyed.finalize()
    }

    /// Writes machine code down for the next time. A failure costs nothing but that.
    pub(crate) fn keep(&self, id: &ArtefactId, code: &Genuine) {
        let _alone = self.0.writing.lock();
        match self.write(id, code) {
            Ok(()) => drop(self.0.kept.fetch_add(1, Ordering::Relaxed)),
            Err(reason) => {
                debug!(%reason, "machine code is not kept; it is made again when needed")
            }
        }
    }

    fn write(&self, id: &ArtefactId, code: &Genuine) -> io::Result<()> {
        let size = (MARK.len() + SEAL_BYTES + code.bytes().len()) as u64;
        if self.0.bytes_max < size {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.make_room(size)?;
        let (name, folder) = (id.file_name(), &self.0.folder);
        let draft = folder.join(format!("{name}{DRAFT}"));
        // Left by nobody: there is one writer, and drafts of others went at the start.
        let _ = fs::remove_file(&draft);
        let mut file = new_file(&draft)?;
        let seal = self.seal(id, code.bytes());
        let written = file
            .write_all(MARK)
            .and_then(|()| file.write_all(seal.as_bytes()))
            .and_then(|()| file.write_all(code.bytes()))
            // Not flushed to the disk: what a power cut tears has no seal.
            .and_then(|()| fs::rename(&draft, folder.join(name)));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }

    /// Removes the oldest files until `size` more bytes fit.
    fn make_room(&self, size: u64) -> io::Result<()> {
        let mut files = Vec::new();
        let mut total = size;
        for entry in fs::read_dir(&self.0.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(ENDING)
                && let Ok(about) = entry.metadata()
            {
                total = total.saturating_add(about.len());
                files.push((about.mtime(), about.mtime_nsec(), entry.path(), about.len()));
            }
        }
        files.sort();
        for (_, _, path, length) in files {
            if total <= self.0.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            total -= length;
        }
        Ok(())
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// A plain file of `owner`, whole. No link is followed, and nothing is read of what is larger than
/// `bytes_max`.
fn read_own(path: &Path, owner: u32, bytes_max: u64) -> io::Result<Vec<u8>> {
    let refused = |why: &str| Err(io::Error::other(why.to_owned()));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return refused("it is no plain file");
    }
    if about.uid() != owner {
        return refused("it belongs to another user");
    }
    if bytes_max < about.len() {
        return refused("it is larger than any may be");
    }
    let mut content = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
    file.take(bytes_max).read_to_end(&mut content)?;
    Ok(content)
}

/// The folder's secret; made when there is none that is ours alone. A new one makes all files
/// worthless.
fn secret(folder: &Path, owner: u32) -> io::Result<[u8; 32]> {
    let path = folder.join(SECRET);
    let known = read_own(&path, owner, 32)
        .ok()
        .and_then(|known| known.try_into().ok());
    let private = |path: &Path| {
        let about = fs::symlink_metadata(path);
        about.is_ok_and(|about| about.mode() & 0o077 == 0)
    };
    if let Some(known) = known.filter(|_| private(&path)) {
        return Ok(known);
    }
    let fresh: [u8; 32] = rand::random();
    let draft = folder.join(format!("{SECRET}{DRAFT}"));
    let _ = fs::remove_file(&draft);
    new_file(&draft)?.write_all(&fresh)?;
    fs::rename(&draft, &path)?;
    Ok(fresh)
}
