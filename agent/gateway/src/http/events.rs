//! The page kept up to date: what it shows, once a second, to all who follow, and not at all while nobody does.

use super::{
    Shared,
    routes::{ask, plain},
};
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response, Sse, sse::Event},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{sleep, sleep_until},
};

/// Most followers at once.
const MAX_LISTENERS: usize = 16;
/// From one look to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one follows before it is to come back: no connection is for ever.
const FOLLOWS: Duration = Duration::from_secs(600);
/// Milliseconds after which one that was cut off comes back.
const BACK_MS: u64 = 1000;

/// What is seen, for all who follow.
#[derive(Debug)]
pub(super) struct Live {
    seen: watch::Sender<Option<(Instant, Bytes)>>,
    /// Somebody follows.
    begins: Notify,
    room: Arc<Semaphore>,
}

impl Default for Live {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(MAX_LISTENERS));
        Self { seen: watch::Sender::new(None), begins: Notify::new(), room }
    }
}

impl Live {
    pub(super) fn listeners(&self) -> usize {
        MAX_LISTENERS - self.room.available_permits()
    }
}

/// What the page shows now, as JSON.
pub(super) async fn look(shared: &Arc<Shared>) -> Option<Bytes> {
    let json = ask(shared, |window, _| serde_json::to_vec(&window.board())).await?;
    json.inspect_err(|error| tracing::error!(%error, "what the page shows is no JSON"))
        .ok()
        .map(Bytes::from)
}

/// Looks once a second while somebody follows.
pub(super) async fn run(shared: Arc<Shared>) {
    let looking = async {
        loop {
            while shared.live.seen.receiver_count() == 0 {
                shared.live.begins.notified().await;
            }
            if let Some(json) = look(&shared).await {
                shared.live.seen.send_replace(Some((Instant::now(), json)));
            }
            sleep(INTERVAL).await;
        }
    };
    // It ends by being cancelled.
    let _ = shared.stop.run_until_cancelled(looking).await;
}

/// A stream of what the page shows. One that reads slowly misses some, and is never behind.
pub(super) async fn follow(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(seat) = Arc::clone(&shared.live.room).try_acquire_owned() else {
        let why = "too many follow already; close another page, or read /api/status\n";
        return plain(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let mut seen = shared.live.seen.subscribe();
    let fresh = |seen: &Option<(Instant, Bytes)>| {
        seen.as_ref().is_some_and(|(at, _)| at.elapsed() < 2 * INTERVAL)
    };
    if fresh(&seen.borrow()) {
        seen.mark_changed();
    }
    shared.live.begins.notify_one();
    let first = Event::default().retry(Duration::from_millis(BACK_MS)).comment("hello");
    let events = stream::once(async { first }).chain(following(shared, seen));
    let held = events.map(move |event| {
        let _seat = &seat;
        Ok::<_, Infallible>(event)
    });
    Sse::new(held).into_response()
}

fn following(
    shared: Arc<Shared>,
    seen: watch::Receiver<Option<(Instant, Bytes)>>,
) -> impl Stream<Item = Event> {
    let until = tokio::time::Instant::now() + FOLLOWS;
    stream::unfold((shared, seen, false), move |(shared, mut seen, ended)| async move {
        if ended {
            return None;
        }
        let changed = tokio::select! {
            biased;
            () = shared.stop.cancelled() => None,
            () = sleep_until(until) => return None,
            changed = seen.changed() => changed.ok(),
        };
        let json =
            changed.and_then(|()| seen.borrow_and_update().as_ref().map(|(_, json)| json.clone()));
        let Some(json) = json else {
            let ends = Event::default().event("stopping").data("");
            return Some((ends, (shared, seen, true)));
        };
        // JSON has no line breaks outside of its strings, and none in them that is not escaped.
        let text = String::from_utf8_lossy(&json).into_owned();
        Some((Event::default().data(text), (shared, seen, false)))
    })
}
