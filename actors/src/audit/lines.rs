//! Offsets to line numbers.
//!
//! A line ends at `\n`, `\r\n` or a lone `\r`, as CommonMark has it; an end at
//! the very end of a text begins no further line.

/// Where lines begin, to turn offsets into line numbers.
#[derive(Debug)]
pub(crate) struct LineIndex {
    starts: Vec<usize>,
}

impl LineIndex {
    pub(crate) fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut starts = Vec::with_capacity(1 + bytes.len() / 40);
        starts.push(0);
        for (at, byte) in bytes.iter().enumerate() {
            let lone_cr = *byte == b'\r' && bytes.get(at + 1) != Some(&b'\n');
            if (*byte == b'\n' || lone_cr) && at + 1 < bytes.len() {
                starts.push(at + 1);
            }
        }
        LineIndex { starts }
    }

    /// Lines in all; an empty text has one.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.starts.len()).unwrap_or(u32::MAX)
    }

    /// The line of a byte, counted from 1.
    pub(crate) fn line_of(&self, offset: usize) -> u32 {
        let line = self.starts.partition_point(|start| *start <= offset);
        u32::try_from(line.max(1)).unwrap_or(u32::MAX)
    }

    /// The byte at which a line begins.
    pub(crate) fn start_of(&self, line: u32) -> usize {
        let index = usize::try_from(line)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        self.starts.get(index).copied().unwrap_or_default()
    }

    /// Each line with its number and the offset of its first byte, without its
    /// line end.
    pub(crate) fn iter<'t>(
        &self,
        text: &'t str,
    ) -> impl Iterator<Item = (u32, usize, &'t str)> + use<'_, 't> {
        let ends = self.starts.iter().skip(1).copied().chain([text.len()]);
        (1..)
            .zip(self.starts.iter().copied().zip(ends))
            .map(move |(number, (start, end))| {
                (
                    number,
                    start,
                    text.get(start..end)
                        .unwrap_or_default()
                        .trim_end_matches(['\n', '\r']),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_any_line_end() {
        let text = "a\r\nb\rc\nd\n";
        let index = LineIndex::new(text);
        let lines: Vec<_> = index.iter(text).map(|(n, _, line)| (n, line)).collect();
        assert_eq!(lines, [(1, "a"), (2, "b"), (3, "c"), (4, "d")]);
    }
}
