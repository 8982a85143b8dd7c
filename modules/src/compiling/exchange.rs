//! What is said to a process that compiles, and what it answers (pure).
//!
//! Both ends are the same program, so there are no versions to agree upon; a mark in front finds
//! whoever started another one.

use crate::host::Metering;

/// Bytes of a request's and of an answer's header.
pub(super) const HEADER_BYTES: usize = 40;

const MARK: &[u8; 8] = b"regrowc1";

/// The header of a request; the module follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) metering: Metering,
    /// Address space that the process may have.
    pub(super) memory_bytes: u64,
    /// Processor time that it may use.
    pub(super) processor_seconds: u64,
    pub(super) module_bytes: u64,
}

/// The header of an answer; machine code, or why there is none, follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) compiled: bool,
    pub(super) bytes: u64,
}

fn header(numbers: [u64; 4]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MARK);
    for (at, number) in numbers.into_iter().enumerate() {
        header[8 + 8 * at..16 + 8 * at].copy_from_slice(&number.to_le_bytes());
    }
    header
}

fn numbers(header: &[u8; HEADER_BYTES]) -> Option<[u64; 4]> {
    let (mark, rest) = header.split_at(8);
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(rest.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    (mark == MARK).then_some(numbers)
}

impl Request {
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let metering = match self.metering {
            Metering::Time => 0,
            Metering::Fuel => 1,
        };
        header([
            metering,
            self.memory_bytes,
            self.processor_seconds,
            self.module_bytes,
        ])
    }

    /// `None` when it is none.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let [metering, memory_bytes, processor_seconds, module_bytes] = numbers(bytes)?;
        let metering = match metering {
            0 => Metering::Time,
            1 => Metering::Fuel,
            _ => return None,
        };
        Some(Self {
            metering,
            memory_bytes,
            processor_seconds,
            module_bytes,
        })
    }
}

impl Answer {
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        header([u64::from(self.compiled), self.bytes, 0, 0])
    }

    /// `None` when it is none.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let compiled = match numbers(bytes)? {
            [compiled @ (0 | 1), bytes, 0, 0] => (compiled == 1, bytes),
            _ => return None,
        };
        let (compiled, bytes) = compiled;
        Some(Self { compiled, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_else_is(
            fuel: bool,
            numbers: [u64; 3],
            compiled: bool,
            junk: [u8; HEADER_BYTES],
        ) {
            let [memory_bytes, processor_seconds, module_bytes] = numbers;
            let metering = if fuel { Metering::Fuel } else { Metering::Time };
            let request = Request { metering, memory_bytes, processor_seconds, module_bytes };
            prop_assert_eq!(Request::from_bytes(&request.to_bytes()), Some(request));
            let answer = Answer { compiled, bytes: module_bytes };
            prop_assert_eq!(Answer::from_bytes(&answer.to_bytes()), Some(answer));
            prop_assert_eq!(Request::from_bytes(&junk), None);
            prop_assert_eq!(Answer::from_bytes(&junk), None);
        }
    }
}
