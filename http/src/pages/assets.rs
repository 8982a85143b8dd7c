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

/// A file that pages load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asset {
    /// How everything looks.
    Style,
    /// Chooses the theme before anything is drawn.
    Theme,
    /// Requests and swaps by attributes: htmx.
    Htmx,
    /// Its extension for streams.
    HtmxStreams,
    /// What htmx cannot.
    App,
    /// The sign on the tab.
    Icon,
}

impl Asset {
    const ALL: [Self; 6] = [
        Self::Style,
        Self::Theme,
        Self::Htmx,
        Self::HtmxStreams,
        Self::App,
        Self::Icon,
    ];

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
            Self::Htmx => (
                "htmx",
                "js",
                SCRIPT,
                include_str!("assets/vendor/htmx.min.js"),
            ),
            Self::HtmxStreams => (
                "hx-sse",
                "js",
                SCRIPT,
                include_str!("assets/vendor/hx-sse.min.js"),
            ),
            Self::App => ("app", "js", SCRIPT, include_str!("assets/app.js")),
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
        for asset in [Asset::Htmx, Asset::HtmxStreams] {
            let hash = blake3::hash(asset.facts().3.as_bytes()).to_hex();
            assert!(told.contains(hash.as_str()), "{asset:?} has hash {hash}");
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for asset in [Asset::Style, Asset::Theme, Asset::App] {
            let content = asset.facts().3;
            for sign in ["http://", "https://", "@import", "//cdn", "eval("] {
                assert!(!content.contains(sign), "{asset:?} has {sign}");
            }
        }
    }
}
