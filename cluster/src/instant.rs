//! Instants in documents: written as people read them (RFC 3339, in UTC), to the millisecond.

use regrow_runtime::clock::Timestamp;
use serde::{Deserialize, Deserializer, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(crate) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(at)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(from)?;
    read(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no instant")))
}

fn read(text: &str) -> Option<Timestamp> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let millis = at.unix_timestamp_nanos() / 1_000_000;
    u64::try_from(millis).ok().map(Timestamp)
}

/// The same for several.
pub(crate) mod several {
    use serde::ser::SerializeSeq;

    use super::{Deserialize, Deserializer, Serializer, Timestamp, read};

    pub(crate) fn serialize<S: Serializer>(all: &[Timestamp], to: S) -> Result<S::Ok, S::Error> {
        let mut sequence = to.serialize_seq(Some(all.len()))?;
        for at in all {
            sequence.serialize_element(&at.to_string())?;
        }
        sequence.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Timestamp>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let read = texts.iter().map(|text| {
            read(text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no instant")))
        });
        read.collect()
    }
}
