//! Framing of requests and responses on a stream: a length of four bytes, big-endian, then the
//! message, within the bound of the protocol.

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response};
use netbuild_proto::{
    DecodeError,
    membership::{MAX_MESSAGE, Request, Response},
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Name and version of the protocol.
pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/netbuild/membership/2");

/// What came instead of a request: not to be answered, but to be held against its sender. libp2p tells
/// nobody of a request that fails to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Broken;

/// Bytes of messages that are being read at once, over all connections. Strangers may open streams as
/// well, and a message is long; whoever comes when this is used up is not answered.
const MAX_READING: usize = 64 << 20;
/// Bytes that are read at a time.
const CHUNK: usize = 16 * 1024;

/// Reads and writes the messages of [`PROTOCOL`].
#[derive(Clone, Default)]
pub(crate) struct Codec {
    reading: Arc<AtomicUsize>,
}

/// A share of [`MAX_READING`], given back when it is dropped.
struct Share<'a> {
    reading: &'a AtomicUsize,
    bytes: usize,
}

impl Share<'_> {
    fn grow(&mut self, bytes: usize) -> io::Result<()> {
        self.bytes += bytes;
        if self.reading.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_READING {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "too much is being read"));
        }
        Ok(())
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.reading.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn invalid(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

async fn read(
    io: &mut (impl AsyncRead + Unpin + Send),
    reading: &AtomicUsize,
) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    io.read_exact(&mut prefix).await?;
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        let text = format!("a message of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    // It grows with what arrives, not with what is promised.
    let mut message = Vec::new();
    let mut share = Share { reading, bytes: 0 };
    while message.len() < length {
        let start = message.len();
        let end = length.min(start + CHUNK);
        share.grow(end - start)?;
        message.resize(end, 0);
        io.read_exact(&mut message[start..]).await?;
    }
    Ok(message)
}

async fn write(io: &mut (impl AsyncWrite + Unpin + Send), message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).ok();
    let Some(length) = length.filter(|_| message.len() <= MAX_MESSAGE) else {
        let text = format!("a message of {} bytes", message.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(message).await?;
    io.close().await
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Result<Request, Broken>;
    type Response = Response;

    async fn read_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Result<Request, Broken>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let message = match read(io, &self.reading).await {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Err(Broken)),
            message => message?,
        };
        Ok(Request::decode(&message).map_err(|error| {
            tracing::debug!(%error, "a request that cannot be read");
            Broken
        }))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        Response::decode(&read(io, &self.reading).await?).map_err(invalid)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Result<Request, Broken>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let request = request.map_err(|Broken| io::ErrorKind::InvalidInput)?;
        write(io, &request.encode()).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &response.encode()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{executor::block_on, io::Cursor};
    use proptest::prelude::*;
    use request_response::Codec as _;

    #[test]
    fn a_request_reads_back() {
        let request = Request::Exchange(vec![7; 100_000]);
        let mut codec = Codec::default();
        let mut bytes = Cursor::new(Vec::new());
        block_on(codec.write_request(&PROTOCOL, &mut bytes, Ok(request.clone()))).unwrap();
        let bytes = bytes.into_inner();
        let read = block_on(codec.read_request(&PROTOCOL, &mut Cursor::new(&bytes))).unwrap();
        assert_eq!(read, Ok(request));
        assert!(block_on(codec.read_request(&PROTOCOL, &mut Cursor::new(&bytes[..99]))).is_err());
        assert_eq!(codec.reading.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_it_is_allocated() {
        let mut bytes = Cursor::new([0xff; 64]);
        let error = block_on(read(&mut bytes, &AtomicUsize::new(0))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let broken =
            block_on(Codec::default().read_request(&PROTOCOL, &mut Cursor::new([0xff; 64])));
        assert_eq!(broken.unwrap(), Err(Broken));
    }

    #[test]
    fn what_is_read_at_once_is_bounded() {
        let reading = AtomicUsize::new(MAX_READING - CHUNK);
        let mut bytes = Cursor::new([&[0, 0, 0x50, 0][..], &[0; 0x5000]].concat());
        let error = block_on(read(&mut bytes, &reading)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert_eq!(reading.load(Ordering::Relaxed), MAX_READING - CHUNK);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut codec = Codec::default();
            let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            let _ = block_on(codec.read_request(&PROTOCOL, &mut Cursor::new(framed.clone())));
            let _ = block_on(codec.read_response(&PROTOCOL, &mut Cursor::new(framed)));
            let _ = block_on(codec.read_response(&PROTOCOL, &mut Cursor::new(bytes)));
        }
    }
}
