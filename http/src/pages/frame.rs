//! What stands around every page: head, navigation, who is here, and whether it is live.

use axum::http::HeaderName;
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::assets::Asset;
use super::live::stamp;
use super::visit::Visit;
use super::{SIGN_IN, words};

/// An entry of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// How it goes.
    Overview,
    /// Who runs under whom.
    Tree,
    /// What is to be done.
    Tasks,
    /// A form for more of it.
    NewTask,
    /// Who waits, and for what.
    Queue,
    /// The nodes.
    Cluster,
    /// Who does it.
    Agents,
    /// What happens.
    Events,
    /// What is known.
    Memory,
    /// What was measured.
    Metrics,
}

impl Place {
    const ALL: [Self; 10] = [
        Self::Overview,
        Self::Tree,
        Self::Tasks,
        Self::NewTask,
        Self::Queue,
        Self::Cluster,
        Self::Agents,
        Self::Events,
        Self::Memory,
        Self::Metrics,
    ];

    fn facts(self) -> (&'static str, &'static str, char) {
        match self {
            Self::Overview => ("/", "Overview", 'o'),
            Self::Tree => ("/tree", "Tree", 'r'),
            Self::Tasks => ("/tasks", "Tasks", 't'),
            Self::NewTask => ("/tasks/new", "New task", 'n'),
            Self::Queue => ("/queue", "Queue", 'q'),
            Self::Cluster => ("/cluster", "Cluster", 'c'),
            Self::Agents => ("/agents", "Agents", 'a'),
            Self::Events => ("/events", "Events", 'e'),
            Self::Memory => ("/memory", "Memory", 'm'),
            Self::Metrics => ("/charts", "Metrics", 'x'),
        }
    }
}

/// How htmx is to behave: nothing of its own in the style, no swap of what was refused.
const HTMX: &str = r#"{"includeIndicatorCSS":false,"noSwap":[204,304,"4xx","5xx"],"history":false,"extensions":"sse,regrow"}"#;

/// What a browser may do with a page: load from this node, and be framed by nobody.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// What goes with every page.
const HEADERS: [(HeaderName, &str); 5] = [
    (HeaderName::from_static("content-security-policy"), POLICY),
    (HeaderName::from_static("cache-control"), "no-store"),
    (HeaderName::from_static("x-content-type-options"), "nosniff"),
    (HeaderName::from_static("x-frame-options"), "DENY"),
    (HeaderName::from_static("referrer-policy"), "same-origin"),
];

/// A whole page with its headers. With a place it stays live.
pub(crate) fn document(
    visit: &Visit,
    place: Option<Place>,
    title: &str,
    content: &str,
) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="dark light";
                meta name="htmx-config" content=(HTMX);
                @if let Some(csrf) = visit.csrf() { meta name="csrf" content=(csrf); }
                title { (title) " · " (visit.state.node) " · Regrow" }
                link rel="icon" type="image/svg+xml" href=(Asset::Icon.path());
                link rel="stylesheet" href=(Asset::Style.path());
                script src=(Asset::Theme.path()) {}
                script src=(Asset::App.path()) defer {}
            }
            body {
                a .skip href="#main" { "Skip to the content" }
                (top(visit, place))
                (content_of(visit, place, content))
                div #notices role="status" aria-live="polite" {}
                (questions())
            }
        }
    };
    (HEADERS, Html(page.into_string())).into_response()
}

fn content_of(visit: &Visit, place: Option<Place>, content: &str) -> Markup {
    // The content is HTML already: it was drawn by a page.
    let content = PreEscaped(content);
    match place {
        Some(_) => {
            let seen = format!(r#"{{"Last-Event-ID":"{}"}}"#, stamp(content.0));
            html! {
                main #main tabindex="-1" hx-sse:connect=(visit.target) hx-swap="innerMorph"
                    hx-headers=(seen) { (content) }
            }
        }
        None => html! { main #main tabindex="-1" { (content) } },
    }
}

fn top(visit: &Visit, place: Option<Place>) -> Markup {
    html! {
        header .top {
            a .brand href="/" {
                svg .mark viewBox="0 0 24 24" aria-hidden="true" {
                    path d="M12 21V11M12 15c-4 0-6.500-2.500-6.500-6.500C9.500 8.500 12 11 12 15Zm0-4c0-4 2.500-6.500 6.500-6.500 0 4-2.500 6.500-6.500 6.500Z" {}
                }
                "Regrow"
            }
            @if visit.is_known() {
                nav aria-label="Pages" {
                    @for entry in Place::ALL {
                        @let (path, name, key) = entry.facts();
                        a href=(path) data-key=(key) aria-current=[(place == Some(entry)).then_some("page")] {
                            (name)
                        }
                    }
                }
            }
            div .who {
                @if place.is_some() {
                    span #live data-state="connecting" role="status" { "connecting" }
                }
                span .node title=(format!("Version {}", visit.state.version)) {
                    "node " b { (visit.state.node) }
                }
                @if let Some(token) = visit.token() {
                    span .token { "token " b { (words::beginning(token, 24)) } }
                    button type="button" hx-delete="/session" hx-swap="none" data-then=(SIGN_IN) { "Sign out" }
                }
                button #theme type="button" { "Theme" }
            }
        }
    }
}

/// What is asked before something is done that cannot be taken back; and the keys.
fn questions() -> Markup {
    html! {
        dialog #question aria-labelledby="question-text" {
            form method="dialog" {
                p #question-text {}
                div .row {
                    button value="no" autofocus { "Leave it" }
                    button .danger value="yes" { "Do it" }
                }
            }
        }
        dialog #keys aria-labelledby="keys-title" {
            form method="dialog" {
                h2 #keys-title { "Keys" }
                dl .keys {
                    dt { kbd { "g" } " then a letter" }
                    dd {
                        @for (position, entry) in Place::ALL.into_iter().enumerate() {
                            @let (_, name, key) = entry.facts();
                            @if 0 < position { ", " }
                            kbd { (key) } " " (name)
                        }
                    }
                    dt { kbd { "/" } } dd { "search on this page" }
                    dt { kbd { "d" } } dd { "dark, light, or as the system" }
                    dt { kbd { "?" } } dd { "these keys" }
                }
                div .row { button value="no" autofocus { "Close" } }
            }
        }
    }
}
