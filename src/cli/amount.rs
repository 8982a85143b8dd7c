//! Amounts on the command line: none is negative.

/// Money or seconds.
pub(super) fn amount(text: &str) -> Result<f64, String> {
    let amount = text.parse().ok();
    let possible = amount.filter(|amount: &f64| amount.is_finite() && 0.0 <= *amount);
    possible.ok_or_else(|| "must be a number, 0 or more, such as 2.5".to_owned())
}

/// Tokens or calls.
pub(super) fn count(text: &str) -> Result<u64, String> {
    let count = text.parse();
    count.map_err(|_| "must be a whole number, 0 or more".to_owned())
}
