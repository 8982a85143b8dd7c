//! The only home of bincode: bytes for values, and values for bytes that may be anyone's.
//!
//! bincode 2 is no longer developed; everything that depends on its format is behind these
//! functions, and every value begins with the version of the codec, so that another can take
//! its place.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte of every value.
const CODEC: u8 = 1;

/// Memory that reading one value may claim, in bytes, whatever lengths it announces.
const CLAIM_MAX: usize = 32 * 1024 * 1024;

type Format = Configuration<LittleEndian, Varint, Limit<CLAIM_MAX>>;

fn format() -> Format {
    bincode::config::standard().with_limit::<CLAIM_MAX>()
}

/// Bytes that are no value of the expected kind. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Another codec wrote them.
    #[error("written by codec {found}, readable is {CODEC}")]
    Codec {
        /// The first byte.
        found: u8,
    },
    /// They are cut short, or no such value.
    #[error("not readable: {0}")]
    Value(#[from] bincode::error::DecodeError),
    /// Something follows the value.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// Appends a value.
pub(super) fn append<T: Encode>(bytes: &mut Vec<u8>, value: &T) {
    bytes.push(CODEC);
    bincode::encode_into_std_write(value, bytes, bincode::config::standard())
        .expect("a Vec takes everything");
}

/// Reads a value from the beginning of `bytes`, and says how many it took.
pub(super) fn take<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<(T, usize), Malformed> {
    let body = checked(bytes)?;
    let (value, used) = bincode::borrow_decode_from_slice(body, format())?;
    Ok((value, used + 1))
}

/// The bytes of a value that serde can write.
///
/// # Errors
///
/// When serde refuses it: unsized sequences, or a type's own refusal.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, bincode::error::EncodeError> {
    let mut bytes = vec![CODEC];
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())?;
    Ok(bytes)
}

/// The value that [`encode`] wrote.
///
/// # Errors
///
/// When the bytes are no such value, are not all of it, or announce more than can be sent.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let body = checked(bytes)?;
    let (value, used) = bincode::serde::decode_from_slice(body, format())?;
    match body.len() - used {
        0 => Ok(value),
        trailing => Err(Malformed::Trailing(trailing)),
    }
}

fn checked(bytes: &[u8]) -> Result<&[u8], Malformed> {
    match bytes.split_first() {
        Some((&CODEC, body)) => Ok(body),
        Some((&found, _)) => Err(Malformed::Codec { found }),
        None => Err(Malformed::Codec { found: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_nothing_else_does() {
        let bytes = encode(&("name".to_owned(), 7_u64)).expect("plain data");
        let read: (String, u64) = decode(&bytes).expect("what was written");
        assert_eq!(read, ("name".to_owned(), 7));
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(
            decode::<(String, u64)>(&longer),
            Err(Malformed::Trailing(1))
        ));
        let mut other = bytes;
        other[0] = 9;
        assert!(matches!(
            decode::<(String, u64)>(&other),
            Err(Malformed::Codec { found: 9 })
        ));
    }

    #[test]
    fn an_announced_length_claims_no_memory() {
        // A sequence that says it has 2^63 elements.
        let hostile = [CODEC, 253, 0, 0, 0, 0, 0, 0, 0, 128];
        assert!(decode::<Vec<u64>>(&hostile).is_err());
    }
}
