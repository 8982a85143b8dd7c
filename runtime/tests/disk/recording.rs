//! What a process did to its files, as the shim wrote it down, and what a disk may hold of
//! it after a power cut.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::SmallRng;

/// A disk writes this many bytes at once or not at all.
const SECTOR: usize = 512;
/// The system writes back whole pages.
const PAGE: usize = 4_096;

/// One record of `shim.c`, which says what the kinds mean.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    kind: u8,
    file: u32,
    offset: u64,
    data: Range<usize>,
}

pub(crate) struct Recording {
    bytes: Vec<u8>,
    pub(crate) records: Vec<Record>,
}

impl Recording {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("the shim's log");
        let mut records = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let head = |from: usize, to: usize| &bytes[at + from..at + to];
            let length = u32::from_ne_bytes(head(13, 17).try_into().expect("4 bytes"));
            let data = at + 17..at + 17 + length as usize;
            records.push(Record {
                kind: bytes[at],
                file: u32::from_ne_bytes(head(1, 5).try_into().expect("4 bytes")),
                offset: u64::from_ne_bytes(head(5, 13).try_into().expect("8 bytes")),
                data: data.clone(),
            });
            at = data.end;
        }
        Self { bytes, records }
    }

    /// What the process said up to record `end`.
    pub(crate) fn said(&self, range: Range<usize>) -> String {
        let marks = self.records[range].iter().filter(|r| r.kind == b'M');
        let bytes: Vec<u8> = marks
            .flat_map(|record| &self.bytes[record.data.clone()])
            .copied()
            .collect();
        String::from_utf8(bytes).expect("text")
    }

    pub(crate) fn count(&self, kind: u8) -> usize {
        self.records.iter().filter(|r| r.kind == kind).count()
    }

    /// How often SQLite began its write-ahead log anew, which it does after all of it was
    /// copied: each time it writes the log's header of 32 bytes.
    pub(crate) fn logs_begun(&self) -> usize {
        let header = |r: &&Record| r.kind == b'W' && r.offset == 0 && r.data.len() == 32;
        self.records.iter().filter(header).count()
    }

    fn path(&self, record: &Record) -> PathBuf {
        let text = std::str::from_utf8(&self.bytes[record.data.clone()]);
        PathBuf::from(text.expect("a path in UTF-8"))
    }
}

/// How a power cut treats what was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Each change is kept or lost.
    Scattered,
    /// Each sector of each write is kept or lost.
    Torn,
}

impl Fate {
    pub(crate) const ALL: [Self; 4] = [Self::Lost, Self::Kept, Self::Scattered, Self::Torn];
}

#[derive(Clone)]
enum Change {
    Write(u64, Range<usize>),
    Cut(u64),
}

#[derive(Default)]
struct Image {
    /// What is on the disk for certain.
    flushed: Vec<u8>,
    /// What the process sees.
    seen: Vec<u8>,
    /// What came after the latest flush, in order.
    pending: Vec<Change>,
}

impl Image {
    fn change(&mut self, change: Change, log: &[u8]) {
        apply(&mut self.seen, &change, log, |_| true);
        self.pending.push(change);
    }

    /// The pages changed since the latest flush reach the disk as the process sees them.
    fn flush(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Cut(length) => {
                    let length = usize::try_from(length).expect("small");
                    self.flushed.resize(length, 0);
                }
                Change::Write(offset, data) => {
                    let offset = usize::try_from(offset).expect("small");
                    let from = (offset / PAGE * PAGE).min(self.seen.len());
                    let to = (offset + data.len()).next_multiple_of(PAGE);
                    let to = to.min(self.seen.len()).max(from);
                    if self.flushed.len() < to {
                        self.flushed.resize(to, 0);
                    }
                    self.flushed[from..to].copy_from_slice(&self.seen[from..to]);
                }
            }
        }
    }
}

enum Naming {
    Add(PathBuf, u32),
    Remove(u32),
}

/// A disk while the recording is played.
#[derive(Default)]
pub(crate) struct Disk {
    files: HashMap<u32, Image>,
    names: Vec<(PathBuf, u32)>,
    /// Changes of names that no flush of a directory covers yet. A journalling file system
    /// keeps them in order: some of the first survive.
    pending_names: Vec<Naming>,
}

impl Disk {
    pub(crate) fn play(&mut self, recording: &Recording, record: &Record) {
        let image = self.files.entry(record.file).or_default();
        match record.kind {
            b'N' => {
                let naming = Naming::Add(recording.path(record), record.file);
                if record.offset == 1 {
                    self.pending_names.push(naming);
                } else {
                    name(&mut self.names, &naming);
                }
            }
            b'W' => {
                let change = Change::Write(record.offset, record.data.clone());
                image.change(change, &recording.bytes);
            }
            b'T' => image.change(Change::Cut(record.offset), &recording.bytes),
            b'S' => image.flush(),
            // The process still sees it, and the system takes it for written: it reaches the
            // disk when its pages are changed again, and not before.
            b'F' => image.pending.clear(),
            b'U' => self.pending_names.push(Naming::Remove(record.file)),
            b'R' => {
                let path = recording.path(record);
                self.pending_names.push(Naming::Add(path, record.file));
            }
            b'D' => {
                for naming in std::mem::take(&mut self.pending_names) {
                    name(&mut self.names, &naming);
                }
            }
            b'M' => {}
            other => panic!("a record of kind {other}"),
        }
    }

    /// What is found after the power is back.
    pub(crate) fn cut(
        &self,
        recording: &Recording,
        fate: Fate,
        rng: &mut SmallRng,
    ) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut names = self.names.clone();
        let survive = match fate {
            Fate::Lost => 0,
            Fate::Kept => self.pending_names.len(),
            Fate::Scattered | Fate::Torn => rng.random_range(0..=self.pending_names.len()),
        };
        for naming in &self.pending_names[..survive] {
            name(&mut names, naming);
        }
        let mut found = BTreeMap::new();
        for (path, file) in names {
            let Some(image) = self.files.get(&file) else {
                continue;
            };
            let mut bytes = image.flushed.clone();
            for change in &image.pending {
                let all = rng.random_bool(0.5);
                apply(&mut bytes, change, &recording.bytes, |_| match fate {
                    Fate::Lost => false,
                    Fate::Kept => true,
                    Fate::Scattered => all,
                    Fate::Torn => rng.random_bool(0.5),
                });
            }
            found.insert(path, bytes);
        }
        found
    }
}

fn name(names: &mut Vec<(PathBuf, u32)>, naming: &Naming) {
    match naming {
        Naming::Add(path, file) => {
            names.retain(|(known, number)| known != path && number != file);
            names.push((path.clone(), *file));
        }
        Naming::Remove(file) => names.retain(|(_, number)| number != file),
    }
}

/// Applies the sectors of a change that `survives` says so of.
fn apply(file: &mut Vec<u8>, change: &Change, log: &[u8], mut survives: impl FnMut(usize) -> bool) {
    match change {
        Change::Cut(length) => {
            if survives(0) {
                file.resize(usize::try_from(*length).expect("small"), 0);
            }
        }
        Change::Write(offset, data) => {
            let mut at = usize::try_from(*offset).expect("small");
            let mut rest = &log[data.clone()];
            while !rest.is_empty() {
                let (sector, more) = rest.split_at((SECTOR - at % SECTOR).min(rest.len()));
                if survives(at) {
                    if file.len() < at + sector.len() {
                        file.resize(at + sector.len(), 0);
                    }
                    file[at..at + sector.len()].copy_from_slice(sector);
                }
                at += sector.len();
                rest = more;
            }
        }
    }
}
