//! Framing of requests and responses on a stream: a length of four bytes, big-endian, then the
//! message, within the bound of the protocol.

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response};
use netbuild_proto::{
    DecodeError,
    membership::{MAX_MESSAGE, Request, Response},
};
use std::io;

/// Name and version of the protocol.
pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/netbuild/membership/1");

/// Reads and writes the messages of [`PROTOCOL`].
#[derive(Clone, Copy, Default)]
pub(crate) struct Codec;

fn invalid(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

async fn read(io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    io.read_exact(&mut prefix).await?;
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        let text = format!("a message of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut message = vec![0; length];
    io.read_exact(&mut message).await?;
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
    type Request = Request;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        Request::decode(&read(io).await?).map_err(invalid)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        Response::decode(&read(io).await?).map_err(invalid)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
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
        let request = Request::Held { after: None };
        let mut bytes = Cursor::new(Vec::new());
        block_on(Codec.write_request(&PROTOCOL, &mut bytes, request.clone())).unwrap();
        let mut bytes = Cursor::new(bytes.into_inner());
        let read = block_on(Codec.read_request(&PROTOCOL, &mut bytes)).unwrap();
        assert_eq!(read, request);
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_it_is_allocated() {
        let mut bytes = Cursor::new([0xff; 64]);
        let error = block_on(read(&mut bytes)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            let _ = block_on(Codec.read_request(&PROTOCOL, &mut Cursor::new(framed.clone())));
            let _ = block_on(Codec.read_response(&PROTOCOL, &mut Cursor::new(framed)));
            let _ = block_on(Codec.read_response(&PROTOCOL, &mut Cursor::new(bytes)));
        }
    }
}
