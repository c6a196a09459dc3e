//! The page, and the snapshots that keep it up to date: `/`, `/api/snapshot`, and `/api/live` by
//! server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
};
use common::pod::{http::Static, problem::Problem};
use futures::{Stream, stream::unfold};
use tokio::time::{Instant, timeout_at};

use crate::{Console, live::Newest};

/// How long one event stream lasts; then the browser reconnects. Shorter than the time a client has to take an
/// answer.
const LASTS: Duration = Duration::from_secs(20);
/// How long the browser waits before it reconnects, also after an outage of the console.
const RETRY: Duration = Duration::from_millis(200);

/// Allows only what the console itself serves, and no inline script or style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The files of the page: path, content type, text.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("../page/index.html")),
    ("/console.css", CSS, include_str!("../page/console.css")),
    ("/console.js", JAVASCRIPT, include_str!("../page/console.js")),
    ("/dom.js", JAVASCRIPT, include_str!("../page/dom.js")),
    ("/acts.js", JAVASCRIPT, include_str!("../page/acts.js")),
    ("/totals.js", JAVASCRIPT, include_str!("../page/totals.js")),
    ("/timeline.js", JAVASCRIPT, include_str!("../page/timeline.js")),
    ("/dead-letters.js", JAVASCRIPT, include_str!("../page/dead-letters.js")),
];

/// The routes.
pub(crate) fn routes() -> Router<Console> {
    let mut routes = Router::new();
    for (path, kind, text) in FILES {
        routes = routes.route(path, get(async || file(kind, text)));
    }
    routes.route("/api/snapshot", get(snapshot)).route("/api/live", get(live))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let policy = HeaderValue::from_static(POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response.extensions_mut().insert(Static);
    response
}

async fn snapshot(State(console): State<Console>) -> Response {
    let newest = console.newest.borrow().clone();
    if newest.is_empty() {
        return Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "There is no snapshot yet: the console has just started.",
        )
        .retry_after(1)
        .into_response();
    }
    ([(header::CONTENT_TYPE, "application/json")], newest.to_string()).into_response()
}

async fn live(
    State(console): State<Console>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut newest = console.newest;
    // Sends the first snapshot at once.
    newest.mark_changed();
    let end = Instant::now() + LASTS;
    Sse::new(unfold(newest, move |mut newest: Newest| async move {
        let changed = timeout_at(end, newest.changed()).await;
        // Ends when the time is over or the console stops.
        changed.ok()?.ok()?;
        let snapshot: Arc<str> = newest.borrow_and_update().clone();
        Some((Ok(Event::default().retry(RETRY).data(snapshot)), newest))
    }))
}

#[cfg(test)]
mod tests {
    use common::{
        bus::timeline::LONGEST_ENTITY,
        events::title::Title,
        pod::operations::{LONGEST_NAME, LONGEST_TEXT},
    };

    use crate::{
        act::{cut, load},
        operations::totals,
    };

    /// The value of an attribute of the first input that has `marker`, after `form`.
    fn limit(form: &str, marker: &str, attribute: &str) -> usize {
        let page = include_str!("../page/index.html");
        let (_, form) = page.split_once(form).unwrap();
        let (_, input) = form.split_once(marker).unwrap();
        let (input, _) = input.split_once('>').unwrap();
        let (_, value) = input.split_once(&format!("{attribute}=\"")).unwrap();
        value.split_once('"').unwrap().0.parse().unwrap()
    }

    #[test]
    fn the_page_allows_what_the_server_accepts() {
        let seconds = |seconds: u64| usize::try_from(seconds).unwrap();
        for (form, marker, attribute, accepted) in [
            ("totals-check", "totals-events", "max", totals::MOST),
            ("", "timeline-id", "maxlength", LONGEST_ENTITY),
            ("", "letters-text", "maxlength", LONGEST_TEXT),
            ("", "\"operator\"", "maxlength", LONGEST_NAME),
            ("", "name=\"title\"", "maxlength", Title::MAX_CHARACTERS),
            ("<form id=\"load\"", "name=\"rate\"", "max", seconds(load::MAX_RATE.into())),
            ("<form id=\"load\"", "name=\"seconds\"", "max", seconds(load::MAX_SECONDS.into())),
            ("<form id=\"break\"", "name=\"seconds\"", "max", seconds(cut::MAX_SECONDS)),
        ] {
            assert_eq!(limit(form, marker, attribute), accepted, "{form} {marker}");
        }
    }
}
