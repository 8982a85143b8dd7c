//! `regrow openapi`: the document of the HTTP surface, without a node.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::failure::failed;
use super::output::print;

#[derive(Args, Debug)]
pub(crate) struct OpenapiArguments {
    /// On one line
    #[arg(long)]
    json: bool,
}

/// Prints what a node of this version serves at `/openapi.json`.
pub(crate) fn run(arguments: &OpenapiArguments) -> ExitCode {
    let text = regrow_http::openapi();
    let text = match arguments.json {
        true => text,
        false => serde_json::from_str::<Value>(&text)
            .and_then(|document| serde_json::to_string_pretty(&document))
            .unwrap_or(text),
    };
    match print(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, false),
    }
}
