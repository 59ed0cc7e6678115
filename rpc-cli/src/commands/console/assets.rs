//! The page: files that are part of the program.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

/// What the page may do: load what this server has, and talk to this server.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'";

/// The headers of all responses.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! files {
    ($($path:literal: $content_type:ident $file:literal),* $(,)?) => {
        [$(($path, $content_type, include_str!(concat!("page/", $file)))),*]
    };
}

const FILES: [(&str, &str, &str); 20] = files![
    "/": HTML "index.html",
    "/style.css": CSS "style.css",
    "/icon.svg": SVG "icon.svg",
    "/main.js": SCRIPT "main.js",
    "/answer.js": SCRIPT "answer.js",
    "/api.js": SCRIPT "api.js",
    "/call.js": SCRIPT "call.js",
    "/calls.js": SCRIPT "calls.js",
    "/charts.js": SCRIPT "charts.js",
    "/dom.js": SCRIPT "dom.js",
    "/editor.js": SCRIPT "editor.js",
    "/form.js": SCRIPT "form.js",
    "/json.js": SCRIPT "json.js",
    "/keys.js": SCRIPT "keys.js",
    "/letters.js": SCRIPT "letters.js",
    "/list.js": SCRIPT "list.js",
    "/method.js": SCRIPT "method.js",
    "/queues.js": SCRIPT "queues.js",
    "/state.js": SCRIPT "state.js",
    "/workers.js": SCRIPT "workers.js",
];

/// Serves the files.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let mut router = Router::new();
    for (path, content_type, content) in FILES {
        let file = move || async move { ([(header::CONTENT_TYPE, content_type)], content).into_response() };
        router = router.route(path, get(file));
    }
    router
}

/// Adds the headers that keep the page, and what is in it, to itself.
pub(super) async fn add_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
