//! How the verbs that run in this process report failure.

use std::error::Error;
use std::process::ExitCode;

use regrow_runtime::causes::chain;

use super::output::{print_error, print_json_error};

/// The work failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage or configuration; nothing was done.
pub(crate) const USAGE: u8 = 2;

/// Reports an error with its causes, for a person or as JSON, and says how to exit.
pub(crate) fn failed(error: &(dyn Error + 'static), json: bool) -> ExitCode {
    report(error, json);
    FAILED.into()
}

/// Reports an error with its causes on standard error.
pub(crate) fn report(error: &(dyn Error + 'static), json: bool) {
    complain(&chain(error), json);
}

/// Says what is wrong on standard error.
pub(crate) fn complain(problem: &str, json: bool) {
    match json {
        // Programs read one object; people read a line.
        true => print_json_error(problem),
        false => print_error(problem),
    }
}
