//! What is not ours, or not what it was, is never taken.

use proptest::prelude::*;

use super::*;

fn id(module: u8, engine: u8) -> ArtefactId {
    ArtefactId {
        module: [module; 32],
        engine: Compatibility([engine; 32]),
    }
}

fn code(bytes: &[u8]) -> Genuine {
    Genuine::proven(bytes.to_vec())
}

fn cache(folder: &Path) -> Artefacts {
    Artefacts::open(folder, 1 << 20).expect("a folder")
}

fn found(cache: &Artefacts, id: &ArtefactId) -> Option<Vec<u8>> {
    cache.find(id).map(|code| code.bytes().to_vec())
}

#[test]
fn what_was_kept_is_found_by_the_next_process_and_by_nobody_elses_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().join("deep/inside");
    cache(&folder).keep(&id(1, 1), &code(b"machine code"));
    let next = cache(&folder);
    assert_eq!(
        found(&next, &id(1, 1)).as_deref(),
        Some(&b"machine code"[..])
    );
    assert_eq!(found(&next, &id(2, 1)), None);
    assert_eq!(found(&next, &id(1, 2)), None);
    let counts = next.counts();
    assert_eq!((counts.found, counts.missing, counts.refused), (1, 2, 0));
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join(SECRET)), 0o600);
    assert_eq!(mode(&folder.join(id(1, 1).file_name())), 0o600);
}

proptest! {
    #[test]
    fn a_file_with_any_bit_flipped_or_cut_anywhere_is_refused_removed_and_counted(
        content in prop::collection::vec(any::<u8>(), 0..200),
        at: prop::sample::Index,
        bit in 0_u8..8,
        cut: bool,
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = cache(dir.path());
        cache.keep(&id(1, 1), &code(&content));
        let path = dir.path().join(id(1, 1).file_name());
        let mut file = fs::read(&path).expect("kept");
        let at = at.index(file.len());
        if cut {
            file.truncate(at);
        } else {
            file[at] ^= 1 << bit;
        }
        fs::write(&path, file).expect("writable");
        prop_assert_eq!(found(&cache, &id(1, 1)), None);
        prop_assert!(!path.exists());
        prop_assert_eq!(cache.counts().refused, 1);
        cache.keep(&id(1, 1), &code(&content));
        prop_assert_eq!(found(&cache, &id(1, 1)), Some(content));
    }
}

#[test]
fn forged_and_swapped_files_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = cache(&dir.path().join("ours"));
    cache.keep(&id(1, 1), &code(b"one"));
    cache.keep(&id(2, 1), &code(b"two"));
    let path = |id: &ArtefactId| dir.path().join("ours").join(id.file_name());
    // Each under the other's name, both ours.
    let (one, two) = (path(&id(1, 1)), path(&id(2, 1)));
    let between = dir.path().join("between");
    fs::rename(&one, &between).expect("movable");
    fs::rename(&two, &one).expect("movable");
    fs::rename(&between, &two).expect("movable");
    assert_eq!(found(&cache, &id(1, 1)), None);
    assert_eq!(found(&cache, &id(2, 1)), None);
    // For another engine, whose name begins in the same way.
    let mut similar = id(1, 1);
    similar.engine.0[31] ^= 1;
    assert_eq!(similar.file_name(), id(1, 1).file_name());
    cache.keep(&similar, &code(b"one"));
    assert_eq!(found(&cache, &id(1, 1)), None);
    // Sealed properly, with another secret.
    let other = Artefacts::open(dir.path().join("theirs"), 1 << 20).expect("a folder");
    other.keep(&id(1, 1), &code(b"evil"));
    fs::copy(dir.path().join("theirs").join(id(1, 1).file_name()), &one).expect("copied");
    assert_eq!(found(&cache, &id(1, 1)), None);
    assert_eq!(cache.counts().refused, 4);
}

#[test]
fn links_folders_and_what_is_too_large_are_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = cache(dir.path());
    cache.keep(&id(1, 1), &code(b"one"));
    let path = dir.path().join(id(1, 1).file_name());
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).expect("movable");
    std::os::unix::fs::symlink(&elsewhere, &path).expect("linked");
    assert_eq!(
        found(&cache, &id(1, 1)),
        None,
        "a link, though to what is ours"
    );
    fs::write(&path, vec![0; (1 << 20) + 1]).expect("writable");
    assert_eq!(found(&cache, &id(1, 1)), None);
    fs::create_dir(&path).expect("made");
    assert_eq!(found(&cache, &id(1, 1)), None);
    nix::unistd::mkfifo(
        &dir.path().join(id(2, 1).file_name()),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .expect("made");
    assert_eq!(
        found(&cache, &id(2, 1)),
        None,
        "and nobody waits for a writer"
    );
    assert_eq!(cache.counts().refused, 4);
}

#[test]
fn a_secret_that_others_could_read_is_replaced_and_nothing_of_before_is_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    cache(dir.path()).keep(&id(1, 1), &code(b"one"));
    let secret = dir.path().join(SECRET);
    let before = fs::read(&secret).expect("there");
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).expect("ours");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("ours");
    let next = cache(dir.path());
    assert_ne!(fs::read(&secret).expect("there"), before);
    assert_eq!(found(&next, &id(1, 1)), None);
    assert_eq!(
        fs::metadata(dir.path()).expect("there").mode() & 0o777,
        0o700
    );
}

#[test]
fn the_oldest_go_first_and_drafts_of_the_dead_are_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("x.code.draft"), b"half").expect("writable");
    let cache = Artefacts::open(dir.path(), 1_000).expect("a folder");
    assert!(!dir.path().join("x.code.draft").exists());
    for one in 0..5 {
        cache.keep(&id(one, 1), &code(&[one; 300]));
        let file = File::options()
            .write(true)
            .open(dir.path().join(id(one, 1).file_name()));
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(one));
        file.expect("kept").set_modified(at).expect("ours");
    }
    let left: Vec<bool> = (0..5)
        .map(|one| cache.find(&id(one, 1)).is_some())
        .collect();
    assert_eq!(left, [false, false, false, true, true]);
    cache.keep(&id(9, 1), &code(&[0; 2_000]));
    assert!(cache.find(&id(9, 1)).is_none(), "larger than all may be");
    assert!(cache.find(&id(4, 1)).is_some(), "and nothing went for it");
}
