//! All that is wrong with a request, told in one answer.

use serde_json::{Value, json};

use crate::error::{ApiError, Code};

/// Problems told at once.
const PROBLEMS_MAX: usize = 20;

/// What is wrong with the fields of a request.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<(String, String)>);

impl Problems {
    pub(crate) fn push(&mut self, field: &str, problem: String) {
        self.0.push((shortened(field), problem));
    }

    /// Takes over what is wrong with the object in `field`.
    pub(crate) fn adopt(&mut self, field: &str, inner: Self) {
        let named = inner.0.into_iter();
        self.0
            .extend(named.map(|(name, problem)| (format!("{field}.{name}"), problem)));
    }

    pub(crate) fn finish(self, code: Code) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let told = &self.0[..self.0.len().min(PROBLEMS_MAX)];
        let mut lines: Vec<String> = told
            .iter()
            .map(|(field, problem)| format!("{field} {problem}"))
            .collect();
        if told.len() < self.0.len() {
            lines.push(format!("and {} more", self.0.len() - told.len()));
        }
        let problems: Vec<Value> = told
            .iter()
            .map(|(field, problem)| json!({ "field": field, "problem": problem }))
            .collect();
        Err(ApiError::new(code, lines.join("; ")).with("problems", problems))
    }
}

/// A value as it may be quoted in an answer.
pub(crate) fn shortened(text: &str) -> String {
    const MAX: usize = 60;
    let mut short: String = text.chars().take(MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
