//! The HTTP door of an agent: a page, what it shows as JSON, metrics, and whether the agent serves.
//!
//! It only reads. Requests come from browsers, too, in which pages of strangers run: see [`guard`].

mod events;
mod guard;
mod routes;

use crate::window::{HttpCounts, Window};
use events::Live;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Most connections at once; a further one is closed.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take for the head of a request, or be idle before it.
const HEAD: Duration = Duration::from_secs(15);
/// Most bytes of the head of a request.
const MAX_HEAD: usize = 16 * 1024;
/// Most header lines of a request.
const MAX_HEADERS: usize = 64;
/// How long a connection may last, however slowly its client reads. Browsers that follow the events come
/// back by themselves.
const LIFE: Duration = Duration::from_secs(660);
/// How long answers that are under way have when the door closes.
const CLOSING: Duration = Duration::from_millis(500);

/// What the door is opened with.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Where it listens. When that is taken, it is another port of the same address.
    pub listen: SocketAddr,
    /// A port that is tried before any free one, such as that of the last time.
    pub port_before: Option<u16>,
    /// Names of this machine that requests may call it by, beside `localhost` and addresses.
    pub names: Vec<String>,
}

/// A door that is open until [`HttpServer::shutdown`].
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// What serving takes.
#[derive(Debug)]
struct Shared {
    window: Arc<dyn Window>,
    tally: Tally,
    guard: guard::Guard,
    live: Live,
    /// Requests for which the agent is asked at once; more wait.
    asking: Semaphore,
    stop: CancellationToken,
}

/// Counts while the door is open.
#[derive(Debug, Default)]
struct Tally {
    requests: std::sync::Mutex<std::collections::BTreeMap<(&'static str, u16), u64>>,
    connections: AtomicU64,
    refused: AtomicU64,
}

impl Shared {
    fn counts(&self) -> HttpCounts {
        let requests =
            self.tally.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        HttpCounts {
            requests,
            connections: self.tally.connections.load(Ordering::Relaxed),
            refused: self.tally.refused.load(Ordering::Relaxed),
            listeners: self.live.listeners() as u64,
        }
    }
}

impl HttpServer {
    /// Opens the door. Must be called on a runtime.
    ///
    /// # Errors
    /// When no port of the address can be had.
    pub async fn start(options: HttpOptions, window: Arc<dyn Window>) -> io::Result<Self> {
        let listener = bind(options.listen, options.port_before).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            window,
            tally: Tally::default(),
            guard: guard::Guard::new(address, options.names),
            live: Live::default(),
            asking: Semaphore::new(routes::MAX_ASKING),
            stop: stop.clone(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        tasks.spawn(events::run(shared));
        Ok(Self { address, tasks, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a browser on this machine is given.
    pub fn url(&self) -> String {
        let ip = self.address.ip();
        let shown = match ip {
            _ if !ip.is_unspecified() => self.address,
            std::net::IpAddr::V4(_) => {
                SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), self.address.port())
            }
            std::net::IpAddr::V6(_) => {
                SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), self.address.port())
            }
        };
        format!("http://{shown}/")
    }

    /// Closes the door: those who follow the events hear of it, and what is under way has a moment.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of the HTTP door failed");
            }
        }
    }
}

/// The wanted port, or another one of the same address.
async fn bind(wanted: SocketAddr, port_before: Option<u16>) -> io::Result<TcpListener> {
    let at = |port| TcpListener::bind((wanted.ip(), port));
    let refused = match wanted.port() {
        0 => None,
        port => match at(port).await {
            Ok(listener) => return Ok(listener),
            Err(error) => Some(error),
        },
    };
    let before = match port_before {
        Some(port) => at(port).await.ok(),
        None => None,
    };
    let listener = match before {
        Some(listener) => listener,
        None => at(0).await?,
    };
    if let Some(error) = refused {
        let instead = listener.local_addr()?;
        tracing::warn!(%error, "cannot listen on {wanted} for HTTP; it is {instead} instead");
    }
    Ok(listener)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        shared.tally.connections.store(connections.len() as u64, Ordering::Relaxed);
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(_) if connections.len() >= MAX_CONNECTIONS => {
                shared.tally.refused.fetch_add(1, Ordering::Relaxed);
            }
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                // Out of descriptors, most likely; accepting at once would fail again at once.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What has not ended by then is dropped with the set.
    drop(timeout(CLOSING, ended).await);
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Answers are small and nobody wants to wait for more of them.
    drop(stream.set_nodelay(true));
    let router = TowerToHyperService::new(routes::router(Arc::clone(&shared)));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), router)
    );
    let served = async {
        tokio::select! {
            served = connection.as_mut() => return served,
            () = shared.stop.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    match timeout(LIFE, served).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection ended"),
    }
}

#[cfg(test)]
mod tests;
