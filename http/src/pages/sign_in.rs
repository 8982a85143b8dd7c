//! The way in: a token becomes a session.

use axum::response::{IntoResponse as _, Redirect};
use maud::html;

use super::frame;
use super::visit::Visit;
use crate::params::Params;
use crate::routes::Answer;

/// `GET /sign-in`
pub(crate) async fn show(visit: Visit, mut params: Params) -> Answer {
    let next = params.text("next").filter(|next| is_within(next));
    params.finish()?;
    let next = next.unwrap_or_else(|| "/".to_owned());
    // Where there is no token nobody needs one; whoever has a session needs no other.
    if visit.is_open() || visit.csrf().is_some() {
        return Ok(Redirect::to(&next).into_response());
    }
    let content = html! {
        section .lonely {
            h1 { "Sign in" }
            p { "This node asks for a token. What you may do here is what its scopes allow." }
            form #sign-in .stack hx-post="/session" hx-swap="none" data-then=(next) {
                label for="token" { "Token" }
                input #token name="token" type="password" required autocomplete="current-password"
                    spellcheck="false" placeholder="regrow_…" autofocus aria-describedby="token-help";
                p #token-help .hint {
                    "An operator makes one with " code { "regrow token create NAME --scope read" } "."
                }
                p .problem role="alert" {}
                button .primary type="submit" { "Sign in" }
            }
            noscript { p .problem { "Signing in needs scripts, which this browser does not run." } }
        }
    };
    Ok(frame::document(&visit, None, "Sign in", &content.into_string()).into_response())
}

/// A path of this node, and of no other.
fn is_within(next: &str) -> bool {
    next.starts_with('/')
        && !next.starts_with("//")
        && next.len() <= 1_000
        && !next.contains(|c: char| c == '\\' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_host() {
        for good in ["/", "/tasks?state=completed", "/tasks/a/steps/b"] {
            assert!(is_within(good), "{good}");
        }
        for bad in ["", "tasks", "//evil", "/\\evil", "https://evil", "/a\nb"] {
            assert!(!is_within(bad), "{bad}");
        }
    }
}
