//! The way of requests to the server: each is counted, has a deadline that goes with its progress,
//! and tells what time the server has.

use crate::tier::{Meter, Operation, local_seconds as local};
use bytes::Bytes;
use http_body::{Body, Frame};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep, timeout};

/// Bytes per second that an upload makes at least; a link that is slower is of no use for it.
const SLOWEST: u64 = 128 << 10;

tokio::task_local! {
    /// What requests are made for.
    pub(super) static OPERATION: Operation;
}

/// The time that the server has, by what its answers say.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Seconds that the server is ahead.
    ahead: AtomicI64,
    /// Whether it has told that.
    told: AtomicBool,
}

impl Clock {
    /// Seconds since the Unix epoch.
    pub(super) fn now(&self) -> u64 {
        local().saturating_add_signed(self.ahead.load(Ordering::Relaxed))
    }

    /// Seconds that the server is ahead, once it has told the time.
    pub(super) fn ahead(&self) -> Option<i64> {
        self.told.load(Ordering::Relaxed).then(|| self.ahead.load(Ordering::Relaxed))
    }

    fn saw(&self, date: &str) {
        if let Ok(date) = chrono::DateTime::parse_from_rfc2822(date) {
            let ahead = date.timestamp().saturating_sub_unsigned(local());
            self.ahead.store(ahead, Ordering::Relaxed);
            self.told.store(true, Ordering::Relaxed);
        }
    }
}

/// Makes clients whose requests are watched.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    pub(super) meter: Arc<Meter>,
    pub(super) clock: Arc<Clock>,
    pub(super) patience: Duration,
}

impl HttpConnector for Watch {
    fn connect(&self, options: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Watched { client, watch: self.clone() }))
    }
}

#[derive(Debug)]
struct Watched {
    client: HttpClient,
    watch: Watch,
}

impl HttpService for Watched {
    // As `async_trait` writes it.
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let Watch { meter, clock, patience } = &self.watch;
            // Requests for credentials are made outside of any operation.
            let operation = OPERATION.try_with(|operation| *operation).unwrap_or(Operation::Probe);
            let len = request.body().content_length() as u64;
            meter.request(operation, len);
            let patience = *patience + Duration::from_millis(len * 1000 / SLOWEST);
            let answer = timeout(patience, self.client.execute(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(late()))?;
            let (parts, body) = answer.into_parts();
            if let Some(date) = parts.headers.get("date").and_then(|date| date.to_str().ok()) {
                clock.saw(date);
            }
            let patience = self.watch.patience;
            let body = WatchedBody {
                body,
                sleep: Box::pin(sleep(patience)),
                patience,
                meter: meter.clone(),
                operation,
            };
            Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
        })
    }
}

fn late() -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, io::Error::from(io::ErrorKind::TimedOut))
}

/// The body of an answer, which ends with an error when nothing comes for too long.
struct WatchedBody {
    body: HttpResponseBody,
    sleep: Pin<Box<Sleep>>,
    patience: Duration,
    meter: Arc<Meter>,
    operation: Operation,
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => self.sleep.as_mut().poll(context).map(|()| Some(Err(late()))),
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = &frame {
                    let len = frame.data_ref().map_or(0, Bytes::len);
                    self.meter.received(self.operation, len as u64);
                }
                let next = Instant::now() + self.patience;
                self.sleep.as_mut().reset(next);
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for WatchedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedBody").field("operation", &self.operation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_follows_the_server() {
        let clock = Clock::default();
        assert!(clock.now().abs_diff(local()) <= 1);
        assert_eq!(clock.ahead(), None);
        clock.saw("Sun, 06 Nov 2044 08:49:37 GMT");
        assert!(clock.now().abs_diff(2_362_034_977) <= 1, "{}", clock.now());
        clock.saw("nonsense");
        assert!(clock.now().abs_diff(2_362_034_977) <= 1);
    }
}
