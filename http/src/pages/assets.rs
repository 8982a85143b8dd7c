//! The files that pages load: in the binary, named by what they hold, so that browsers keep
//! them for ever and still have the right ones after an upgrade.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::IntoResponse as _;

use crate::error::{ApiError, Code};
use crate::routes::Answer;

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Requests and swaps by attributes.
macro_rules! htmx {
    () => {
        include_str!("assets/vendor/htmx.min.js")
    };
}
/// Its extension for streams.
macro_rules! htmx_streams {
    () => {
        include_str!("assets/vendor/hx-sse.min.js")
    };
}

/// htmx, its streams and what it cannot, as one file: htmx looks through the page as soon as
/// nothing else runs, and does not look again for what an extension that arrives later wants.
const APP: &str = concat!(
    htmx!(),
    "\n;",
    htmx_streams!(),
    "\n;",
    include_str!("assets/app.js")
);

/// A file that pages load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asset {
    /// How everything looks.
    Style,
    /// Chooses the theme before anything is drawn.
    Theme,
    /// Requests, swaps and streams by attributes, and what they cannot do.
    App,
    /// The sign on the tab.
    Icon,
}

impl Asset {
    const ALL: [Self; 4] = [Self::Style, Self::Theme, Self::App, Self::Icon];

    /// Name, kind and content.
    fn facts(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Style => (
                "style",
                "css",
                "text/css; charset=utf-8",
                include_str!("assets/style.css"),
            ),
            Self::Theme => ("theme", "js", SCRIPT, include_str!("assets/theme.js")),
            Self::App => ("app", "js", SCRIPT, APP),
            Self::Icon => (
                "icon",
                "svg",
                "image/svg+xml",
                include_str!("assets/icon.svg"),
            ),
        }
    }

    /// Where it is served.
    pub(crate) fn path(self) -> &'static str {
        static PATHS: LazyLock<[String; Asset::ALL.len()]> = LazyLock::new(|| {
            Asset::ALL.map(|asset| {
                let (name, ending, _, content) = asset.facts();
                let hash = blake3::hash(content.as_bytes()).to_hex();
                format!("/assets/{name}-{}.{ending}", &hash[..12])
            })
        });
        &PATHS[self as usize]
    }
}

/// `GET /assets/{file}`
pub(crate) async fn serve(Path(file): Path<String>) -> Answer {
    let asked = format!("/assets/{file}");
    let found = Asset::ALL.into_iter().find(|asset| asset.path() == asked);
    let Some(asset) = found else {
        let detail = "there is no such file; reload the page, the node may be another version";
        return Err(ApiError::new(Code::NotFound, detail));
    };
    let (_, _, kind, content) = asset.facts();
    let headers: [(HeaderName, HeaderValue); 2] = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=31536000, immutable"),
        ),
    ];
    Ok((headers, content).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As published, with their hashes, in `assets/vendor/README.md`.
    #[test]
    fn what_others_wrote_is_as_they_published_it() {
        let told = include_str!("assets/vendor/README.md");
        for (name, script) in [("htmx", htmx!()), ("hx-sse", htmx_streams!())] {
            let hash = blake3::hash(script.as_bytes()).to_hex();
            assert!(told.contains(hash.as_str()), "{name} has hash {hash}");
            assert!(APP.contains(script), "{name} is not served");
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let own = [
            include_str!("assets/style.css"),
            include_str!("assets/theme.js"),
            include_str!("assets/app.js"),
        ];
        for content in own {
            for sign in ["http://", "https://", "@import", "//cdn", "eval("] {
                let beginning: String = content.chars().take(60).collect();
                assert!(!content.contains(sign), "{beginning} … has {sign}");
            }
        }
    }
}
