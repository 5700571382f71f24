//! One question, one answer, in order, over one connection.

use crate::{read_frame, write_frame};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;

/// Sends a request and waits for its response.
pub fn call(connection: &mut (impl Read + Write), request: &[u8]) -> io::Result<Vec<u8>> {
    write_frame(connection, request)?;
    read_frame(connection)?.ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

/// Answers requests until the other side ends.
pub fn serve(
    from: &mut impl Read,
    to: &mut impl Write,
    mut answer: impl FnMut(&[u8]) -> Vec<u8>,
) -> io::Result<()> {
    while let Some(request) = read_frame(from)? {
        write_frame(to, &answer(&request))?;
    }
    Ok(())
}

/// Answers requests on standard input and output: how a parent process talks to a service.
pub fn serve_stdio(answer: impl FnMut(&[u8]) -> Vec<u8>) -> io::Result<()> {
    serve(&mut io::stdin().lock(), &mut io::stdout().lock(), answer)
}

/// Answers requests on a TCP address, one connection after the other, until the process ends.
/// A connection that breaks ends alone.
pub fn serve_tcp(address: &str, mut answer: impl FnMut(&[u8]) -> Vec<u8>) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    eprintln!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let mut stream = stream?;
        if let Err(error) = serve(&mut stream.try_clone()?, &mut stream, &mut answer) {
            eprintln!("connection lost: {error}");
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::thread;

    #[test]
    fn a_server_answers_until_the_client_leaves() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let served = thread::spawn(move || {
            let mut count = 0;
            let mut reader = server.try_clone()?;
            serve(&mut reader, &mut server, |request| {
                count += 1;
                [request, b"!"].concat()
            })?;
            io::Result::Ok(count)
        });
        for word in ["one", "two", ""] {
            let response = call(&mut client, word.as_bytes()).unwrap();
            assert_eq!(response, format!("{word}!").into_bytes());
        }
        drop(client);
        assert_eq!(served.join().unwrap().unwrap(), 3);
    }

    #[test]
    fn a_server_that_leaves_without_an_answer_is_an_error() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || read_frame(&mut server));
        let error = call(&mut client, b"anyone?").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(server.join().unwrap().unwrap(), Some(b"anyone?".to_vec()));
    }
}
