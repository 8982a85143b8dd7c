//! The node's directory: one owner at a time, of a version that this binary understands.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Version of the directory's layout. Raised when an older binary would misread it.
const LAYOUT: u32 = 1;

/// A directory that this process owns until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    created: bool,
    _lock: File,
}

/// The directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "data directory {} is in use by {holder}; stop that node, or pass another --data-dir",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that has it, as far as it said so.
        holder: String,
    },
    /// It cannot be created or written.
    #[error(
        "data directory {} cannot be {attempt}: {cause}; change its permissions, or pass another --data-dir",
        path.display()
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        attempt: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// A newer version made it.
    #[error(
        "data directory {} has layout {found}, this version understands up to {LAYOUT}; \
         use the newer regrow, or pass another --data-dir",
        path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// Its marker is damaged.
    #[error(
        "data directory {} has a damaged VERSION file ({found:?}); restore it from a backup",
        path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What stands there instead of a number.
        found: String,
    },
}

impl DataDir {
    /// Takes the directory, creating it if it does not exist.
    ///
    /// # Errors
    ///
    /// [`DataDirError`]
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        let path = path.into();
        let unusable = |attempt| {
            let path = path.clone();
            move |cause| DataDirError::Unusable {
                path,
                attempt,
                cause,
            }
        };
        fs::create_dir_all(&path).map_err(unusable("created"))?;
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join("node.lock"))
            .map_err(unusable("written"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it is only for the message.
                let _ = lock.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                return Err(DataDirError::Locked { path, holder });
            }
            Err(TryLockError::Error(cause)) => return Err(unusable("locked")(cause)),
        }
        let created = Self::check_version(&path)?;
        let pid = std::process::id().to_string();
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(pid.as_bytes()))
            .map_err(unusable("written"))?;
        Ok(Self {
            path,
            created,
            _lock: lock,
        })
    }

    /// Says whether the directory is new; marks it if so.
    fn check_version(path: &Path) -> Result<bool, DataDirError> {
        let marker = path.join("VERSION");
        let unusable = |attempt| {
            move |cause| DataDirError::Unusable {
                path: path.to_owned(),
                attempt,
                cause,
            }
        };
        match fs::read_to_string(&marker) {
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(found) if LAYOUT < found => Err(DataDirError::Newer {
                    path: path.to_owned(),
                    found,
                }),
                Ok(_) => Ok(false),
                Err(_) => Err(DataDirError::Damaged {
                    path: path.to_owned(),
                    found: text.chars().take(40).collect(),
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(cause) => Err(unusable("read")(cause)),
        }
    }

    /// Marks a new directory as complete, once what belongs into it is there.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Unusable`]; the directory still counts as new.
    pub fn seal(&mut self) -> Result<(), DataDirError> {
        if !self.created {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            // Renamed into place: a marker without content would count as damaged.
            let draft = self.path.join("VERSION.new");
            let mut marker = File::create(&draft)?;
            writeln!(marker, "{LAYOUT}")?;
            marker.sync_all()?;
            fs::rename(&draft, self.path.join("VERSION"))?;
            // A new file is only durable when its directory is, and that only when its own is.
            File::open(&self.path)?.sync_all()?;
            for above in fs::canonicalize(&self.path)?.ancestors().skip(1) {
                // One that we may not open existed before.
                let _ = File::open(above).and_then(|above| above.sync_all());
            }
            Ok(())
        };
        let path = self.path.clone();
        write().map_err(|cause| DataDirError::Unusable {
            path,
            attempt: "written",
            cause,
        })?;
        self.created = false;
        Ok(())
    }

    /// Tells this directory from any other, for as long as it exists: made once, at random.
    /// A copy of the directory has the same.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Unusable`]
    pub fn identity(&self) -> Result<String, DataDirError> {
        let kept = self.path.join("node.id");
        let identity = || -> io::Result<String> {
            match fs::read_to_string(&kept) {
                Ok(known) if !known.trim().is_empty() => return Ok(known.trim().to_owned()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
            let fresh = Uuid::from_u128(rand::random()).to_string();
            let draft = self.path.join("node.id.draft");
            let mut file = File::create(&draft)?;
            writeln!(file, "{fresh}")?;
            file.sync_all()?;
            fs::rename(&draft, &kept)?;
            Ok(fresh)
        };
        identity().map_err(|cause| DataDirError::Unusable {
            path: self.path.clone(),
            attempt: "written",
            cause,
        })
    }

    /// Nothing was ever stored here.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.created
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = DataDir::open(dir.path()).expect("free");
        let refused = DataDir::open(dir.path()).expect_err("taken").to_string();
        assert!(
            refused.contains(&std::process::id().to_string()),
            "{refused}"
        );
        drop(first);
        DataDir::open(dir.path()).expect("free again");
    }

    #[test]
    fn a_newer_layout_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("VERSION"), "99\n").expect("writable");
        let refused = DataDir::open(dir.path()).expect_err("newer");
        assert!(
            matches!(refused, DataDirError::Newer { found: 99, .. }),
            "{refused}"
        );
        assert_eq!(
            fs::read_to_string(dir.path().join("VERSION")).expect("readable"),
            "99\n"
        );
    }

    #[test]
    fn a_damaged_marker_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("VERSION"), "\0\0").expect("writable");
        assert!(matches!(
            DataDir::open(dir.path()),
            Err(DataDirError::Damaged { .. })
        ));
    }

    #[test]
    fn a_directory_keeps_its_identity() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
        let identity = |at: usize| {
            let dir = DataDir::open(dirs[at].path()).expect("free");
            dir.identity().expect("readable")
        };
        let first = identity(0);
        assert_eq!(identity(0), first);
        assert_ne!(identity(1), first);
        fs::write(dirs[0].path().join("node.id"), "").expect("writable");
        assert_ne!(identity(0), first, "an empty file is no identity");
    }

    #[test]
    fn a_directory_is_new_until_it_is_sealed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("deep/inside");
        let mut first = DataDir::open(&path).expect("created");
        assert!(first.is_new());
        first.seal().expect("sealed");
        drop(first);
        assert!(!DataDir::open(&path).expect("reopened").is_new());
    }
}
