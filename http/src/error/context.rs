//! Failures of shared context as answers.

use std::time::Duration;

use regrow_runtime::context::ContextError;

use super::{ApiError, Code};

impl From<ContextError> for ApiError {
    fn from(error: ContextError) -> Self {
        let detail = error.to_string();
        match error {
            ContextError::TooLarge {
                bytes, bytes_max, ..
            } => Self::new(Code::ResultTooLarge, detail)
                .with("bytes", bytes)
                .with("max_bytes", bytes_max),
            ContextError::Full { retry_after, .. } | ContextError::Busy { retry_after } => {
                Self::new(Code::Overloaded, detail).retry_after(retry_after)
            }
            ContextError::Unavailable { .. } | ContextError::TooManyWatched(_) => {
                Self::new(Code::Overloaded, detail).retry_after(Duration::from_secs(1))
            }
            ContextError::Unsure { .. } => Self::new(Code::TimedOut, detail),
            ContextError::Store(cause) => cause.into(),
        }
    }
}
