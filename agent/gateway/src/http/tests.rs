//! The door over real sockets: what it answers, whom it refuses, and that nobody keeps it from others.

use super::{HttpOptions, HttpServer, MAX_CONNECTIONS, MAX_HEAD};
use crate::window::{Board, HttpCounts, Window};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that counts how often it is looked at.
#[derive(Debug, Default)]
struct Glass {
    stopping: AtomicBool,
    panics: AtomicBool,
    looks: AtomicU64,
}

impl Window for Glass {
    fn is_serving(&self) -> bool {
        !self.stopping.load(Ordering::SeqCst)
    }

    fn metrics(&self, door: &HttpCounts) -> String {
        assert!(!self.panics.load(Ordering::SeqCst), "as asked");
        format!("refused {}\n", door.requests.get(&("/metrics", 403)).unwrap_or(&0))
    }

    fn board(&self) -> Board {
        let at_ms = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        Board { at_ms, region: "us-\u{202e}east\n\"<b>".into(), ..Board::default() }
    }
}

fn options() -> HttpOptions {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    HttpOptions { listen, port_before: None, names: Vec::new() }
}

async fn open() -> (HttpServer, Arc<Glass>) {
    let glass = Arc::<Glass>::default();
    let server = HttpServer::start(options(), Arc::<Glass>::clone(&glass)).await.unwrap();
    (server, glass)
}

async fn connect(server: &HttpServer) -> TcpStream {
    TcpStream::connect(server.address()).await.unwrap()
}

/// What comes until the other end closes, or `until` is in it.
async fn read(stream: &mut TcpStream, until: &str) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            let mut part = [0; 4096];
            let count = stream.read(&mut part).await.unwrap_or(0);
            bytes.extend_from_slice(&part[..count]);
            let text = String::from_utf8_lossy(&bytes);
            if count == 0 || (!until.is_empty() && text.contains(until)) {
                return text.into_owned();
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer")
}

async fn send(server: &HttpServer, head: &str) -> String {
    let mut stream = connect(server).await;
    // The other end may have closed before all of it was sent.
    let _ = stream.write_all(head.as_bytes()).await;
    read(&mut stream, "").await
}

async fn get(server: &HttpServer, path: &str) -> String {
    send(server, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
        .await
}

fn is(answer: &str, status: u16) -> bool {
    answer.starts_with(&format!("HTTP/1.1 {status} "))
}

#[tokio::test]
async fn a_page_loads_nothing_from_elsewhere() {
    let (server, _glass) = open().await;
    let page = get(&server, "/").await;
    assert!(is(&page, 200) && page.contains("<!doctype html>"), "{page}");
    let head = page.split("\r\n\r\n").next().unwrap().to_lowercase();
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none';",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert!(!head.contains("access-control-"), "{head}");
    let mut total = page.len();
    for path in ["/page.css", "/page.js", "/icon.svg"] {
        assert!(page.contains(path), "{path}");
        let part = get(&server, path).await;
        assert!(is(&part, 200), "{path}: {part}");
        total += part.len();
    }
    assert!(total < 60_000, "{total} bytes");
    assert!(is(&get(&server, "/elsewhere").await, 404));
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_no_proper_request_is_refused_and_others_are_served() {
    let (server, glass) = open().await;
    let long = "x".repeat(2 * MAX_HEAD);
    for (head, status) in [
        ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 403),
        ("GET /metrics HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 403),
        ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_owned(), 405),
        ("DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 405),
        (format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "a: b\r\n".repeat(100)), 431),
        ("not HTTP at all\r\n\r\n".to_owned(), 400),
    ] {
        let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let answer = send(&server, &head).await;
        let shown = &head[..head.len().min(60)];
        let status_of_long_uri = status == 431 && is(&answer, 414);
        assert!(is(&answer, status) || status_of_long_uri, "{shown:?}: {answer}");
    }
    assert!(get(&server, "/metrics").await.ends_with("refused 2\n"));
    glass.panics.store(true, Ordering::SeqCst);
    assert!(is(&get(&server, "/metrics").await, 500));
    assert!(is(&get(&server, "/healthz").await, 200));
    server.shutdown().await;
}

#[tokio::test]
async fn those_who_say_nothing_keep_nobody_out_for_long() {
    let (server, _glass) = open().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(connect(&server).await);
    }
    // One more is closed at once, whoever it is.
    let mut refused = connect(&server).await;
    assert_eq!(read(&mut refused, "").await, "");
    drop(silent.pop());
    let served = async {
        loop {
            // The end of the other one may not be noticed yet.
            let answer = get(&server, "/healthz").await;
            if is(&answer, 200) {
                return;
            }
        }
    };
    timeout(PATIENCE, served).await.expect("room");
    server.shutdown().await;
}

#[tokio::test]
async fn events_come_while_somebody_follows_and_cost_nothing_otherwise() {
    let (server, glass) = open().await;
    assert!(is(&get(&server, "/healthz").await, 200));
    assert_eq!(glass.looks.load(Ordering::SeqCst), 0);
    let request = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut followers = Vec::new();
    for _ in 0..16 {
        let mut stream = connect(&server).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let first = read(&mut stream, "\"misses\":[]}\n\n").await;
        assert!(first.contains("text/event-stream") && first.contains("data: {"), "{first}");
        // On one line, whatever names others have.
        assert!(first.contains("us-\u{202e}east\\n\\\"<b>"), "{first}");
        followers.push(stream);
    }
    let refused = get(&server, "/events").await;
    assert!(is(&refused, 503) && refused.contains("/api/status"), "{refused}");
    assert!(get(&server, "/api/status").await.contains("\"at_ms\":"));

    followers.truncate(1);
    glass.stopping.store(true, Ordering::SeqCst);
    assert!(is(&get(&server, "/healthz").await, 503));
    let (last, ()) = tokio::join!(read(&mut followers[0], "event: stopping"), server.shutdown());
    assert!(last.contains("event: stopping"), "{last}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_replaced_by_that_of_before_or_by_a_free_one() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap();
    let glass = || Arc::<Glass>::default();
    let first = HttpServer::start(HttpOptions { listen, ..options() }, glass()).await.unwrap();
    let address = first.address();
    assert_ne!(address, listen);
    assert_eq!(first.url(), format!("http://{address}/"));
    first.shutdown().await;
    let port_before = Some(address.port());
    let again = HttpOptions { listen, port_before, ..options() };
    let second = HttpServer::start(again, glass()).await.unwrap();
    assert_eq!(second.address(), address);
    second.shutdown().await;
    let everywhere = HttpOptions { listen: "0.0.0.0:0".parse().unwrap(), ..options() };
    let third = HttpServer::start(everywhere, glass()).await.unwrap();
    assert!(third.url().starts_with("http://127.0.0.1:"), "{}", third.url());
    third.shutdown().await;
}
