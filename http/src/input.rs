//! Reading bodies, with every problem named.
//!
//! A body is read field by field rather than into a struct, so that one answer lists all
//! that is wrong with it: wrong types, values out of range, unknown and repeated fields.
//! Bodies are bounded in size, in nesting and in the time they may take.

mod body;
#[cfg(test)]
mod laws;
mod many;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub(crate) use self::body::read;
use self::body::{Bounds, read_json};
pub(crate) use self::many::OneOrMany;
use crate::error::{ApiError, Code};
use crate::problems::{Problems, shortened};
use crate::state::ApiState;

/// Deepest nesting of a payload or result. Readers commonly give up at 128, and answers
/// wrap what they carry.
const NESTING_MAX: usize = 100;

/// The fields of a JSON body. Whoever takes one says what it must be; what was not taken
/// is unknown.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    values: BTreeMap<String, Box<RawValue>>,
    problems: Problems,
}

impl Fields {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let invalid = |detail: String| ApiError::new(Code::InvalidJson, detail);
        let text = std::str::from_utf8(body).map_err(|error| {
            let at = error.valid_up_to();
            invalid(format!("the body is not UTF-8 at byte {at}"))
        })?;
        let mut reader = serde_json::Deserializer::from_str(text);
        let fields = reader
            .deserialize_map(FieldsVisitor)
            .map_err(|error| invalid(format!("the body cannot be read: {error}")))?;
        reader
            .end()
            .map_err(|error| invalid(format!("the body goes on after its end: {error}")))?;
        Ok(fields)
    }

    /// The fields of an object, for tests of what writes them.
    #[cfg(test)]
    pub(crate) fn of_value(value: &serde_json::Value) -> Self {
        Self::parse(value.to_string().as_bytes()).expect("an object")
    }

    /// Notes a problem that the caller found.
    pub(crate) fn problem(&mut self, field: &str, problem: impl Into<String>) {
        self.problems.push(field, problem.into());
    }

    /// The field was given, and not as null.
    pub(crate) fn given(&self, field: &str) -> bool {
        self.values
            .get(field)
            .is_some_and(|raw| raw.get() != "null")
    }

    /// The field holds an object.
    pub(crate) fn is_object(&self, field: &str) -> bool {
        self.values
            .get(field)
            .is_some_and(|raw| raw.get().starts_with('{'))
    }

    /// The field was given, be it as null.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.values.contains_key(field)
    }

    /// A field of type `T`; `must_be` completes "must be …". Null counts as absent.
    fn take<T: for<'de> Deserialize<'de>>(&mut self, field: &str, must_be: &str) -> Option<T> {
        let raw = self.values.remove(field)?;
        if raw.get() == "null" {
            return None;
        }
        let value = serde_json::from_str(raw.get());
        if value.is_err() {
            let found = shortened(raw.get());
            self.problem(field, format!("is {found}, must be {must_be}"));
        }
        value.ok()
    }

    /// A field that decodes itself; `must_be` completes "must be …". Null counts as absent.
    pub(crate) fn decoded<T: for<'de> Deserialize<'de>>(
        &mut self,
        field: &str,
        must_be: &str,
    ) -> Option<T> {
        self.take(field, must_be)
    }

    /// Text without control characters, except line breaks and tabs where `prose`.
    pub(crate) fn text(&mut self, field: &str, prose: bool) -> Option<String> {
        let text: String = self.take(field, "text")?;
        let forbidden = |c: char| c.is_control() && !(prose && matches!(c, '\n' | '\r' | '\t'));
        if text.chars().any(forbidden) {
            self.problem(field, "contains control characters");
            return None;
        }
        Some(text)
    }

    /// Whatever text there is, with control characters replaced: a report of a failure is
    /// not refused for what the failed program printed.
    pub(crate) fn report(&mut self, field: &str) -> Option<String> {
        let text: String = self.take(field, "text")?;
        let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
        Some(text.replace(odd, "\u{fffd}"))
    }

    /// Text that names one of a few things.
    pub(crate) fn named<T>(&mut self, field: &str) -> Option<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let name: String = self.take(field, "text")?;
        match shortened(&name).parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(field, format!("is not known: {error}"));
                None
            }
        }
    }

    /// Several texts.
    pub(crate) fn texts(&mut self, field: &str, must_be: &str) -> Option<Vec<String>> {
        self.take(field, must_be)
    }

    /// True or false.
    pub(crate) fn flag(&mut self, field: &str) -> Option<bool> {
        self.take(field, "true or false")
    }

    /// A whole number within `range`; `unit` follows it in the message.
    pub(crate) fn number(
        &mut self,
        field: &str,
        range: RangeInclusive<u64>,
        unit: &str,
    ) -> Option<u64> {
        let (min, max) = (range.start(), range.end());
        let must_be = format!("a whole number from {min} to {max}{unit}");
        let number: u64 = self.take(field, &must_be)?;
        if !range.contains(&number) {
            self.problem(field, format!("is {number}, must be {must_be}"));
            return None;
        }
        Some(number)
    }

    /// A number from 0, in `parts` per whole: kept as whole parts, rounded to the nearest.
    pub(crate) fn decimal(&mut self, field: &str, parts: f64) -> Option<u64> {
        const MAX: f64 = 1e9;
        let must_be = "a number from 0 to 1000000000";
        let number: f64 = self.take(field, must_be)?;
        if !(0.0..=MAX).contains(&number) {
            self.problem(field, format!("is {number}, must be {must_be}"));
            return None;
        }
        // At most 10^15, far within what the cast keeps.
        Some((number * parts).round() as u64)
    }

    /// An object, read by `read`. What is wrong within is told by its full name.
    pub(crate) fn nested<T>(
        &mut self,
        field: &str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let raw = self.values.remove(field)?;
        if raw.get() == "null" {
            return None;
        }
        let Ok(mut inner) = Self::parse(raw.get().as_bytes()) else {
            let found = shortened(raw.get());
            self.problem(field, format!("is {found}, must be an object"));
            return None;
        };
        let value = read(&mut inner);
        inner.strangers();
        self.problems.adopt(field, inner.problems);
        Some(value)
    }

    /// Several objects, at most `max`, each read by `read`. What is wrong with one is told
    /// by its position.
    pub(crate) fn list<T>(
        &mut self,
        field: &str,
        max: usize,
        read: impl Fn(&mut Self) -> T,
    ) -> Option<Vec<T>> {
        let raw: Vec<Box<RawValue>> = self.take(field, "a list of objects")?;
        if max < raw.len() {
            let found = raw.len();
            self.problem(field, format!("has {found}, must have at most {max}"));
            return None;
        }
        let mut all = Vec::with_capacity(raw.len());
        for (position, one) in raw.into_iter().enumerate() {
            let name = format!("{field}[{position}]");
            self.values.insert(name.clone(), one);
            match self.nested(&name, &read) {
                Some(value) => all.push(value),
                None => self.problem(&name, "must be an object"),
            }
        }
        Some(all)
    }

    /// Several whole numbers.
    pub(crate) fn numbers(&mut self, field: &str, must_be: &str) -> Option<Vec<u64>> {
        self.take(field, must_be)
    }

    /// Task ids.
    pub(crate) fn ids(&mut self, field: &str) -> Vec<TaskId> {
        let texts = self.take::<Vec<String>>(field, "a list of task ids");
        let mut ids = Vec::new();
        for text in texts.unwrap_or_default() {
            match shortened(&text).parse() {
                Ok(id) => ids.push(id),
                Err(error) => self.problem(field, format!("is not valid: {error}")),
            }
        }
        ids
    }

    /// A document, kept as the text it arrived in.
    pub(crate) fn document(&mut self, field: &str) -> Option<Json> {
        let raw = self.values.remove(field)?;
        let text: Box<str> = raw.into();
        match Self::sound(&text).and_then(|()| Json::parse(text.into())) {
            Ok(document) => Some(document),
            Err(error) => {
                self.problem(field, format!("cannot be read: {error}"));
                None
            }
        }
    }

    /// Whether other programs can read the document: raw text is only known to be
    /// well-formed, its strings may hold lone surrogates and its nesting has no bound.
    fn sound(text: &str) -> Result<(), serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(text);
        Sound { left: NESTING_MAX }.deserialize(&mut reader)
    }

    /// The value as it stands, null included.
    pub(crate) fn raw(&mut self, field: &str) -> Option<Box<RawValue>> {
        self.values.remove(field)
    }

    /// Refuses the request if anything is wrong with it, unknown fields included.
    pub(crate) fn finish(mut self) -> Result<(), ApiError> {
        self.strangers();
        self.problems.finish(Code::ValidationFailed)
    }

    /// What nobody took is not known.
    fn strangers(&mut self) {
        for field in self.values.keys() {
            self.problems
                .push(field, "is not known; leave it out".into());
        }
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value()?;
            match fields.values.entry(name) {
                Entry::Vacant(free) => {
                    free.insert(value);
                }
                Entry::Occupied(taken) => {
                    let problem = "is given twice".to_owned();
                    fields.problems.push(taken.key(), problem);
                }
            }
        }
        Ok(fields)
    }
}

/// Walks a document without keeping it.
#[derive(Clone, Copy)]
struct Sound {
    left: usize,
}

impl Sound {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let left = self.left.checked_sub(1).ok_or_else(|| {
            E::custom(format_args!(
                "it is nested deeper than {NESTING_MAX} levels"
            ))
        })?;
        Ok(Self { left })
    }
}

impl<'de> DeserializeSeed<'de> for Sound {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while map.next_key_seed(inner)?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

impl FromRequest<ApiState> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        Self::parse(&read_json(request, Bounds::of(state)).await?)
    }
}

impl Fields {
    /// Of a request whose body is short: `max` bytes, within `patience`.
    pub(crate) async fn short(
        request: Request,
        max: usize,
        patience: Duration,
    ) -> Result<Self, ApiError> {
        Self::parse(&read_json(request, Bounds { max, patience }).await?)
    }
}

/// A request that carries nothing; an empty JSON object is let pass.
pub(crate) struct Nothing;

impl FromRequest<ApiState> for Nothing {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let body = read(&parts.headers, body, state).await?;
        if !body.trim_ascii().is_empty() {
            Fields::parse(&body)?.finish()?;
        }
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).expect("an object")
    }

    fn refusal(fields: Fields) -> String {
        fields.finish().expect_err("problems").to_string()
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut fields = fields(r#"{"a": [], "n": -1, "m": 7, "n2": 1.5, "x": 0, "a": 1}"#);
        assert_eq!(fields.text("a", false), None);
        assert_eq!(fields.number("n", 1..=3, " ms"), None);
        assert_eq!(fields.number("m", 1..=3, ""), None);
        assert_eq!(fields.number("n2", 1..=3, ""), None);
        let text = refusal(fields);
        for expected in [
            "a is given twice",
            "a is [], must be text",
            "n is -1, must be a whole number from 1 to 3 ms",
            "m is 7, must be a whole number from 1 to 3",
            "n2 is 1.5, must be",
            "x is not known",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn null_is_as_good_as_absent() {
        let mut fields = fields(r#"{"a": null}"#);
        assert_eq!(fields.text("a", false), None);
        fields.finish().expect("no problem");
    }

    #[test]
    fn documents_that_others_cannot_read_are_refused() {
        let deep = "[".repeat(101) + &"]".repeat(101);
        for bad in [deep.as_str(), r#""\ud800""#, "1e999"] {
            let mut fields = fields(&format!(r#"{{"payload": {bad}}}"#));
            assert!(fields.document("payload").is_none(), "{bad}");
            assert!(refusal(fields).contains("payload cannot be read"), "{bad}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        for good in [
            deep.as_str(),
            r#"{"a\u0000": "\ud83d\ude00"}"#,
            "-1.5e3",
            "null",
        ] {
            let mut fields = fields(&format!(r#"{{"payload": {good}}}"#));
            let document = fields.document("payload").expect("a document");
            assert_eq!(document.as_str(), good);
        }
    }

    #[test]
    fn a_flood_of_problems_is_cut_short() {
        let many: Vec<String> = (0..50).map(|n| format!("\"f{n}\": 1")).collect();
        let text = refusal(fields(&format!("{{{}}}", many.join(","))));
        assert!(text.ends_with("and 30 more"), "{text}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in ["", "[]", "1", "{", "{} {}", "{\"a\":}", "\u{feff}{}"] {
            let refused = Fields::parse(bad.as_bytes()).expect_err(bad);
            assert_eq!(refused.code(), Code::InvalidJson, "{bad}");
        }
        assert!(Fields::parse(&[b'{', 0xff, b'}']).is_err());
    }
}
