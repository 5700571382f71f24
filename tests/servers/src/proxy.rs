//! A proxy that harms what passes through it.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Bytes that pass at once.
const PIECE: usize = 16 << 10;

/// What is done to connections, those that stand included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// They are closed as soon as something comes.
    Close,
    /// What the server says is kept back for as long as this lasts.
    Stall,
    /// They are closed when the server has said this many bytes in the current piece.
    Cut(usize),
    /// In each piece of at least 256 bytes that the server says, the last bit is turned over.
    Flip,
    /// HTTP requests lose their conditions (`If-None-Match`, `If-Match`), as with a server that knows none;
    /// those that had one count as answered. Signatures do not fit any more.
    Unconditional,
    /// Each HTTP request is answered by the proxy with this status line and this body.
    Answer(&'static str, &'static str),
}

/// A proxy on a port of its own. It ends with the process.
#[derive(Debug, Clone)]
pub struct Proxy {
    fault: Arc<Mutex<Fault>>,
    answered: Arc<AtomicU64>,
    port: u16,
}

impl Proxy {
    /// Passes connections on to this port of 127.0.0.1.
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let proxy =
            Self { fault: Arc::new(Mutex::new(Fault::None)), answered: Arc::default(), port };
        let inside = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let inside = inside.clone();
                thread::spawn(move || inside.serve(client, upstream));
            }
        });
        proxy
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is done from now on.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Requests that the proxy answered itself or changed.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn fault(&self) -> Fault {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes on what a client says. A broken connection is the client's to notice.
    fn serve(&self, mut client: TcpStream, upstream: u16) {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)) else { return };
        let (Ok(from), Ok(to)) = (server.try_clone(), client.try_clone()) else { return };
        let inside = self.clone();
        thread::spawn(move || inside.answer(from, to));
        let mut piece = vec![0; PIECE];
        while let Ok(len @ 1..) = client.read(&mut piece) {
            match self.fault() {
                Fault::Close => break,
                Fault::Answer(status, body) => {
                    let done = answer(&mut client, piece[..len].to_vec(), status, body);
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    if done.is_err() {
                        break;
                    }
                }
                fault => {
                    if fault == Fault::Unconditional {
                        let changed = unconditional(&mut piece[..len]);
                        self.answered.fetch_add(changed, Ordering::Relaxed);
                    }
                    if server.write_all(&piece[..len]).is_err() {
                        break;
                    }
                }
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    }

    /// Passes on what the server says.
    fn answer(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = vec![0; PIECE];
        while let Ok(len @ 1..) = from.read(&mut piece) {
            let mut fault = self.fault();
            while fault == Fault::Stall {
                thread::sleep(std::time::Duration::from_millis(10));
                fault = self.fault();
            }
            let passed = match fault {
                Fault::Cut(at) if at < len => {
                    let _ = to.write_all(&piece[..at]);
                    break;
                }
                Fault::Close => break,
                Fault::Flip if len >= 256 => {
                    piece[len - 1] ^= 1;
                    to.write_all(&piece[..len])
                }
                _ => to.write_all(&piece[..len]),
            };
            if passed.is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

/// Gives the headers of conditions another name; returns how many there were. A request begins with a
/// piece, and its head fits one.
fn unconditional(piece: &mut [u8]) -> u64 {
    let mut changed = 0;
    for (name, other) in [("if-none-match:", "x-if-no-match:"), ("if-match:", "x-mayhap:")] {
        let places = 0..piece.len().saturating_sub(name.len());
        let found = places.filter(|at| {
            piece[*at..at + name.len()].eq_ignore_ascii_case(name.as_bytes())
                && piece[..*at].ends_with(b"\r\n")
        });
        for at in found.collect::<Vec<_>>() {
            piece[at..at + name.len()].copy_from_slice(other.as_bytes());
            changed += 1;
        }
    }
    changed
}

/// Reads one HTTP request to its end and answers it.
fn answer(
    client: &mut TcpStream,
    mut request: Vec<u8>,
    status: &str,
    body: &str,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let length = text.split("content-length:").nth(1).and_then(|rest| {
                rest.split("\r\n").next().and_then(|number| number.trim().parse::<usize>().ok())
            });
            if request.len() >= end + 4 + length.unwrap_or(0) {
                break;
            }
        }
        match client.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => request.extend_from_slice(&piece[..len]),
        }
    }
    let head = request.starts_with(b"HEAD");
    let length = body.len();
    let sent = if head { "" } else { body };
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\ncontent-type: application/xml\r\n\r\n{sent}"
    );
    client.write_all(text.as_bytes())
}
