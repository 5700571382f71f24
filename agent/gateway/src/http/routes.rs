//! What is behind which path.

use super::{Shared, events};
use crate::window::Window;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::get,
};
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{task::spawn_blocking, time::timeout};

/// Requests for which the agent is asked at once: each takes a thread for a moment.
pub(super) const MAX_ASKING: usize = 4;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The type of metrics that Prometheus expects.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// What a browser may do with any answer: nothing but show it here.
const HEADERS: [(header::HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The page may load what is here, and nothing from elsewhere.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The parts of the page: path, type and content.
const PAGE: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let page = PAGE.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        let headers =
            [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, PAGE_POLICY)];
        router.route(path, get(async move || (headers, content)))
    });
    page.route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/events", get(events::follow))
        .route("/api/status", get(status))
        .fallback(nothing)
        .layer(from_fn_with_state(Arc::clone(&shared), answer))
        .with_state(shared)
}

/// The paths that are told apart in metrics.
fn known(path: &str) -> &'static str {
    const PATHS: [&str; 4] = ["/api/status", "/events", "/healthz", "/metrics"];
    let page = PAGE.map(|(path, ..)| path);
    PATHS.into_iter().chain(page).find(|known| *known == path).unwrap_or("other")
}

/// Around every request: whether it is answered at all, within which time, and how it is counted.
async fn answer(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = known(request.uri().path());
    let checked = shared.guard.check(request.method(), request.uri(), request.headers());
    let mut response = match checked {
        Err(refusal) => plain(refusal.status, refusal.why),
        Ok(()) => match timeout(ANSWER, next.run(request)).await {
            Ok(response) => response,
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the agent does not answer in time\n"),
        },
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    let status = response.status().as_u16();
    let mut requests = shared.tally.requests.lock().unwrap_or_else(PoisonError::into_inner);
    *requests.entry((path, status)).or_default() += 1;
    drop(requests);
    response
}

/// An answer of text.
pub(super) fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, TEXT)], text).into_response()
}

/// Asks the agent on a thread that may block. A panic of it costs this one answer.
pub(super) async fn ask<T: Send + 'static>(
    shared: &Arc<Shared>,
    what: impl FnOnce(&dyn Window, &Shared) -> T + Send + 'static,
) -> Option<T> {
    let asked = Arc::clone(shared);
    let _turn = shared.asking.acquire().await.ok()?;
    let answer = spawn_blocking(move || what(asked.window.as_ref(), &asked)).await;
    answer.inspect_err(|error| tracing::error!(%error, "an HTTP request failed")).ok()
}

fn failed() -> Response {
    plain(StatusCode::INTERNAL_SERVER_ERROR, "the agent could not answer; its log says why\n")
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match ask(&shared, |window, shared| window.metrics(&shared.counts())).await {
        Some(text) => ([(header::CONTENT_TYPE, METRICS)], Body::from(text)).into_response(),
        None => failed(),
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    match events::look(&shared).await {
        Some(json) => {
            ([(header::CONTENT_TYPE, "application/json")], Body::from(json)).into_response()
        }
        None => failed(),
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    if shared.window.is_serving() {
        plain(StatusCode::OK, "serving\n")
    } else {
        plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    }
}

async fn nothing() -> Response {
    plain(StatusCode::NOT_FOUND, "there is nothing here; try / or /metrics\n")
}
