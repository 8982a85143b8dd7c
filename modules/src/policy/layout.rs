//! Where a policy's memory holds what never changes.
//!
//! Results of the canonical ABI that are always the same are written once, here, and answered by
//! their address.

use super::Manifest;

/// Where static data begins: low addresses stay empty, so that a null pointer is seen.
const BEGIN: u32 = 1024;

/// Static data and the addresses in it.
pub(super) struct Layout {
    /// The bytes from [`begin`](Self::begin) on.
    pub(super) data: Vec<u8>,
    /// `manifest`
    pub(super) manifest: u32,
    /// `result<_, error>` that is ok.
    pub(super) fine: u32,
    /// `result<outcome, error>`: no tasks are run.
    pub(super) no_tasks: u32,
    /// `result<state, error>`: a state without data.
    pub(super) state: u32,
    /// The word `choose`.
    pub(super) choose: Text,
    /// The word `row`.
    pub(super) row: Text,
    /// What a table has to be.
    pub(super) not_a_table: Text,
    /// Room for a result that is written anew at each call.
    pub(super) answer: u32,
    /// Room for one attribute.
    pub(super) attribute: u32,
    /// Where memory that is handed out begins.
    pub(super) heap: u32,
}

/// A text in memory.
#[derive(Clone, Copy)]
pub(super) struct Text {
    pub(super) at: u32,
    pub(super) bytes: u32,
}

/// Bytes of `result<action, error>`.
pub(super) const ANSWER_BYTES: u32 = 40;

/// Bytes of `attr`.
pub(super) const ATTRIBUTE_BYTES: u32 = 24;

/// `error::invalid-input` and `error::unsupported`.
pub(super) const INVALID_INPUT: u8 = 0;
const UNSUPPORTED: u32 = 1;

impl Layout {
    pub(super) fn begin() -> u32 {
        BEGIN
    }

    pub(super) fn of(manifest: &Manifest, columns: &[String]) -> Self {
        let mut data = Data(Vec::new());
        let name = data.text(&manifest.name);
        let version = data.text(&manifest.version);
        let choose = data.text("choose");
        let row = data.text("row");
        let not_a_table = data.text(&format!(
            "the features must be a table of at least one row with the columns {}",
            columns.join(", ")
        ));
        let no_tasks_said = data.text("this module chooses; it runs no tasks");
        let kinds: Vec<Text> = manifest.kinds.iter().map(|kind| data.text(kind)).collect();

        let kinds_at = data.here();
        for kind in &kinds {
            data.words(&[kind.at, kind.bytes]);
        }
        let schemas_at = data.here();
        data.words(&[0]);
        let manifest = data.here();
        data.words(&[name.at, name.bytes, version.at, version.bytes, 0]);
        data.words(&[schemas_at, 1, kinds_at]);
        data.words(&[u32::try_from(kinds.len()).expect("few kinds")]);
        let fine = data.here();
        data.words(&[0; 4]);
        let no_tasks = data.here();
        data.words(&[
            1,
            0,
            UNSUPPORTED,
            no_tasks_said.at,
            no_tasks_said.bytes,
            0,
            0,
            0,
        ]);
        let state = data.here();
        data.words(&[0, version.at, version.bytes, 0, BEGIN, 0]);
        let answer = data.here();
        data.room(ANSWER_BYTES);
        let attribute = data.here();
        data.room(ATTRIBUTE_BYTES);
        let heap = data.here();
        Self {
            data: data.0,
            manifest,
            fine,
            no_tasks,
            state,
            choose,
            row,
            not_a_table,
            answer,
            attribute,
            heap,
        }
    }
}

struct Data(Vec<u8>);

impl Data {
    /// The next address, at a multiple of eight.
    fn here(&mut self) -> u32 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        BEGIN + u32::try_from(self.0.len()).expect("little data")
    }

    fn text(&mut self, text: &str) -> Text {
        let at = self.here();
        self.0.extend_from_slice(text.as_bytes());
        Text {
            at,
            bytes: u32::try_from(text.len()).expect("short"),
        }
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.0.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn room(&mut self, bytes: u32) {
        self.0.resize(self.0.len() + bytes as usize, 0);
    }
}
