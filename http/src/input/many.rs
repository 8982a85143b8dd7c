//! A body that is one object or a list of them.

use axum::extract::{FromRequest, Request};
use serde_json::value::RawValue;

use super::Fields;
use super::body::{Bounds, read_json};
use crate::error::{ApiError, Code};
use crate::state::ApiState;

/// One object, or a list of them. What is wrong with one of a list is its own affair.
#[derive(Debug)]
pub(crate) enum OneOrMany {
    One(Fields),
    Many(Vec<Result<Fields, ApiError>>),
}

impl OneOrMany {
    /// Most objects in a list.
    const MANY_MAX: usize = 1_000;

    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if !body.trim_ascii_start().starts_with(b"[") {
            return Fields::parse(body).map(Self::One);
        }
        let invalid = |error| {
            let detail = format!("the body cannot be read: {error}");
            ApiError::new(Code::InvalidJson, detail)
        };
        let many: Vec<&RawValue> = serde_json::from_slice(body).map_err(invalid)?;
        let (max, found) = (Self::MANY_MAX, many.len());
        if max < found {
            let detail = format!("the list has {found} tasks, may have {max}; send several lists");
            return Err(ApiError::new(Code::ValidationFailed, detail).with("max", max));
        }
        let each = many.iter().map(|one| Fields::parse(one.get().as_bytes()));
        Ok(Self::Many(each.collect()))
    }
}

impl FromRequest<ApiState> for OneOrMany {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        Self::parse(&read_json(request, Bounds::of(state)).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_one_by_one_and_only_so_many() {
        let body = |count: usize| format!(" [{}]", vec!["{}"; count].join(","));
        for count in [0, 1, OneOrMany::MANY_MAX] {
            let many = OneOrMany::parse(body(count).as_bytes()).expect("few enough");
            assert!(matches!(many, OneOrMany::Many(many) if many.len() == count));
        }
        let refused = OneOrMany::parse(body(OneOrMany::MANY_MAX + 1).as_bytes());
        assert_eq!(
            refused.expect_err("too many").code(),
            Code::ValidationFailed
        );
        let broken = OneOrMany::parse(b"[{}, {]").expect_err("no JSON");
        assert_eq!(broken.code(), Code::InvalidJson);
        let mixed = OneOrMany::parse(br#"[{"kind": "k"}, 7]"#).expect("a list");
        let OneOrMany::Many(mixed) = mixed else {
            panic!("{mixed:?}");
        };
        assert!(mixed[0].is_ok() && mixed[1].is_err());
    }
}
