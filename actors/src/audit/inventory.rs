//! Which files an audit is about: one bounded walk over a directory tree.
//!
//! Owns what counts as documentation, what is skipped and why, and how the
//! files are cut into batches. Leaves out their content: nothing is opened.
//!
//! `.gitignore`, `.ignore` and `.git/info/exclude` are honoured, also where
//! the tree is no repository; a person's global ignore file is not, so that
//! the same tree gives the same inventory everywhere. Hidden files are left
//! out, symbolic links are never followed. Paths are sorted, relative, and use
//! `/`; a name that is not UTF-8 is reported as skipped.

use std::io;
use std::path::{Path, PathBuf};

use ignore::WalkBuilder;
use serde::{Deserialize, Serialize};

use super::finding::bounded;

/// Bounds of one audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Documentation files in one inventory; the rest is counted as skipped.
    /// Raising it costs journal space (about 60 bytes a file).
    pub files_max: usize,
    /// Largest file that is parsed, in bytes; a larger one is a finding.
    pub file_bytes_max: u64,
    /// Findings kept of one file; the rest is counted, not kept.
    pub findings_per_file_max: usize,
    /// Skipped files named one by one; the rest is only counted.
    pub skipped_named_max: usize,
    /// Deepest directory visited, counted from the root.
    pub depth_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            files_max: 50_000,
            file_bytes_max: 1024 * 1024,
            findings_per_file_max: 200,
            skipped_named_max: 200,
            depth_max: 64,
        }
    }
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// `.md`, `.markdown`, `.mdown`, `.mkd`: every rule.
    #[serde(rename = "md")]
    Markdown,
    /// `.txt`, `.rst`, `.adoc`, `.asciidoc`, `.mdx`: the rules about plain text.
    #[serde(rename = "txt")]
    Text,
}

impl FileKind {
    /// What the file's name says; `None` if it is no documentation, or a build's
    /// input such as `CMakeLists.txt`.
    pub fn of(path: &str) -> Option<FileKind> {
        // Programs read these, whatever their extension says.
        let name = file_name(path).to_ascii_lowercase();
        let is_input = matches!(
            name.as_str(),
            "cmakelists.txt" | "robots.txt" | "meson_options.txt"
        ) || (name.starts_with("requirements") && name.ends_with(".txt"));
        if is_input {
            return None;
        }
        let (stem, extension) = path.rsplit_once('.')?;
        if stem.is_empty() || stem.ends_with('/') {
            return None;
        }
        let is = |known: &[&str]| known.iter().any(|k| extension.eq_ignore_ascii_case(k));
        if is(&["md", "markdown", "mdown", "mkd"]) {
            Some(FileKind::Markdown)
        } else if is(&["txt", "rst", "adoc", "asciidoc", "mdx"]) {
            Some(FileKind::Text)
        } else {
            None
        }
    }
}

/// One documentation file. Serialised as `[path, bytes, kind]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, u64, FileKind)", into = "(String, u64, FileKind)")]
pub struct FileEntry {
    /// Relative to the root, `/` between components.
    pub path: String,
    /// Size when the inventory was taken.
    pub bytes: u64,
    /// How it is read.
    pub kind: FileKind,
}

impl From<(String, u64, FileKind)> for FileEntry {
    fn from((path, bytes, kind): (String, u64, FileKind)) -> Self {
        FileEntry { path, bytes, kind }
    }
}

impl From<FileEntry> for (String, u64, FileKind) {
    fn from(entry: FileEntry) -> Self {
        (entry.path, entry.bytes, entry.kind)
    }
}

/// Why something is not in the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// The operating system would not let us read it.
    Unreadable(String),
    /// The name is not UTF-8, so it cannot be written in a report.
    NameNotUtf8,
    /// A symbolic link; what it points to is audited where it lives.
    SymbolicLink,
    /// Above [`Limits::files_max`].
    TooManyFiles,
}

/// A file or directory that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Relative path, as far as it can be shown.
    pub path: String,
    /// Why.
    pub reason: SkipReason,
}

/// The documentation files of a tree at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The audited directory, canonical.
    pub root: PathBuf,
    /// Sorted by path.
    pub files: Vec<FileEntry>,
    /// What was left out, at most [`Limits::skipped_named_max`] of it.
    pub skipped: Vec<Skipped>,
    /// How many were left out in all.
    pub skipped_count: u64,
    /// Directories (relative, `""` is the root) with a site generator's own
    /// navigation, where "nothing links here" proves nothing.
    pub navigated: Vec<String>,
}

/// Nothing was read; safe to repeat once the cause is gone.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// There is nothing at the path.
    #[error("{} does not exist; name an existing directory", path.display())]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// There is something, but not a directory.
    #[error("{} is not a directory; name the directory that holds it", path.display())]
    NotADirectory {
        /// As given.
        path: PathBuf,
    },
    /// The directory cannot be listed.
    #[error("{} cannot be read; check its permissions", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The canonical directory at `root`, or why it cannot be audited.
pub(crate) fn open_root(root: &Path) -> Result<PathBuf, InventoryError> {
    let path = root.to_path_buf();
    let canonical = match root.canonicalize() {
        Ok(canonical) => canonical,
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(InventoryError::Missing { path });
        }
        Err(source) if source.kind() == io::ErrorKind::NotADirectory => {
            return Err(InventoryError::NotADirectory { path });
        }
        Err(source) => return Err(InventoryError::Unreadable { path, source }),
    };
    if !canonical.is_dir() {
        return Err(InventoryError::NotADirectory { path });
    }
    match std::fs::read_dir(&canonical) {
        Ok(_entries) => Ok(canonical),
        Err(source) => Err(InventoryError::Unreadable { path, source }),
    }
}

impl Inventory {
    /// Walks the tree at `root` and lists its documentation.
    ///
    /// Blocks on the file system: call it from a blocking thread. Deterministic
    /// for an unchanged tree, apart from which files are left out when there
    /// are more than [`Limits::files_max`].
    ///
    /// # Errors
    ///
    /// [`InventoryError`] when `root` is missing, no directory or unreadable. A
    /// part of the tree that cannot be read is listed in `skipped` instead.
    pub fn take(root: &Path, limits: &Limits) -> Result<Inventory, InventoryError> {
        let root = open_root(root)?;
        let mut found = Collector::new(limits);
        let walk = WalkBuilder::new(&root)
            .hidden(true)
            .parents(true)
            .ignore(true)
            .git_ignore(true)
            .git_exclude(true)
            .git_global(false)
            .require_git(false)
            .follow_links(false)
            .max_depth(Some(limits.depth_max))
            .build();
        for entry in walk {
            match entry {
                Ok(entry) => found.visit(&root, &entry),
                Err(err) => found.fail(&root, &err),
            }
        }
        let Collector {
            mut files,
            mut skipped,
            skipped_count,
            mut navigated,
            ..
        } = found;
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        navigated.sort_unstable();
        navigated.dedup();
        Ok(Inventory {
            root,
            files,
            skipped,
            skipped_count,
            navigated,
        })
    }

    /// Size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Cuts the files into batches of about equal work, in order of paths.
    ///
    /// A batch holds at most `files_max` files (at least one) and stops growing
    /// above `bytes_max`, so a single larger file is a batch of its own.
    pub fn batches(&self, files_max: usize, bytes_max: u64) -> Vec<Vec<String>> {
        let mut batches = Vec::new();
        let mut batch: Vec<String> = Vec::new();
        let mut bytes = 0_u64;
        for file in &self.files {
            let full = files_max.max(1) <= batch.len() || bytes_max < bytes + file.bytes;
            if full && !batch.is_empty() {
                batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            batch.push(file.path.clone());
            bytes += file.bytes;
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        batches
    }
}

/// Collects one walk within its bounds.
struct Collector<'a> {
    limits: &'a Limits,
    files: Vec<FileEntry>,
    skipped: Vec<Skipped>,
    skipped_count: u64,
    navigated: Vec<String>,
}

impl<'a> Collector<'a> {
    fn new(limits: &'a Limits) -> Self {
        Collector {
            limits,
            files: Vec::new(),
            skipped: Vec::new(),
            skipped_count: 0,
            navigated: Vec::new(),
        }
    }

    fn visit(&mut self, root: &Path, entry: &ignore::DirEntry) {
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let file_type = entry.file_type();
        if file_type.is_none_or(|kind| kind.is_dir()) {
            return;
        }
        let Some(path) = portable(relative) else {
            let shown = relative.to_string_lossy();
            if FileKind::of(&shown).is_some() {
                self.skip(&shown, SkipReason::NameNotUtf8);
            }
            return;
        };
        if has_navigation(&path) {
            self.navigated.push(parent(&path).to_owned());
        }
        let Some(kind) = FileKind::of(&path) else {
            return;
        };
        if file_type.is_some_and(|kind| kind.is_symlink()) {
            return self.skip(&path, SkipReason::SymbolicLink);
        }
        if !file_type.is_some_and(|kind| kind.is_file()) {
            return self.skip(
                &path,
                SkipReason::Unreadable("not a regular file".to_owned()),
            );
        }
        if self.limits.files_max <= self.files.len() {
            return self.skip(&path, SkipReason::TooManyFiles);
        }
        match entry.metadata() {
            Ok(metadata) => self.files.push(FileEntry {
                path,
                bytes: metadata.len(),
                kind,
            }),
            Err(err) => self.skip(
                &path,
                SkipReason::Unreadable(bounded(&err.to_string(), 200)),
            ),
        }
    }

    /// A directory that cannot be listed, or a broken ignore file.
    fn fail(&mut self, root: &Path, err: &ignore::Error) {
        let path = failed_path(err).map(|path| path.strip_prefix(root).unwrap_or(path));
        let shown = path
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        let why = match err.io_error() {
            Some(cause) => cause.to_string(),
            None => err.to_string(),
        };
        self.skip(&shown, SkipReason::Unreadable(bounded(&why, 200)));
    }

    fn skip(&mut self, path: &str, reason: SkipReason) {
        self.skipped_count += 1;
        if self.skipped.len() < self.limits.skipped_named_max {
            self.skipped.push(Skipped {
                path: bounded(path, 300),
                reason,
            });
        }
    }
}

fn failed_path(err: &ignore::Error) -> Option<&Path> {
    match err {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => {
            failed_path(err)
        }
        ignore::Error::Partial(errs) => errs.iter().find_map(failed_path),
        ignore::Error::Loop { child, .. } => Some(child),
        ignore::Error::Io(_)
        | ignore::Error::Glob { .. }
        | ignore::Error::UnrecognizedFileType(_)
        | ignore::Error::InvalidDefinition => None,
    }
}

/// `/` between components, whatever the platform; `None` if not UTF-8.
fn portable(relative: &Path) -> Option<String> {
    let text = relative.to_str()?;
    Some(if std::path::MAIN_SEPARATOR == '/' {
        text.to_owned()
    } else {
        text.replace(std::path::MAIN_SEPARATOR, "/")
    })
}

/// The directory of a relative path; `""` is the root.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// The last component of a relative path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Files by which a site generator is known: its navigation is not in the
/// Markdown, or made from the directory itself.
fn has_navigation(path: &str) -> bool {
    let name = file_name(path);
    const EXACT: [&str; 12] = [
        "mkdocs.yml",
        "mkdocs.yaml",
        "_config.yml",
        "_config.yaml",
        "conf.py",
        "antora.yml",
        "hugo.toml",
        "hugo.yaml",
        "mint.json",
        "docs.json",
        "site.json",
        "_toc.yml",
    ];
    const STEMS: [&str; 7] = [
        "docusaurus.config",
        "sidebars",
        "astro.config",
        "gatsby-config",
        "eleventy.config",
        "nuxt.config",
        "typedoc",
    ];
    EXACT.contains(&name)
        || STEMS.iter().any(|stem| {
            name.strip_prefix(stem).is_some_and(|rest| {
                matches!(
                    rest,
                    ".js" | ".ts" | ".mjs" | ".cjs" | ".mts" | ".json" | ".cts"
                )
            })
        })
}
