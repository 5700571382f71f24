//! The control socket: what a command of netbuild and the process that owns the data directory
//! tell one another on one machine.
//!
//! Both ends send frames: the length as 32-bit little-endian, then that many bytes. A connection
//! starts with [`Request::Hello`] and [`Response::Welcome`]; then requests are answered one by
//! one. Blob content goes as raw frames of at most [`MAX_DATA`] bytes, ended by an empty one, or by
//! one of impossible length when the sender cannot go on.

use crate::{
    codec::{self, DecodeError},
    frame::{self, invalid},
    record::{DigestV1, MAX_RECORD, NewRecordV1, SealedRecord},
};
use bincode::{Decode, Encode};
use netbuild_core::{
    cache::{NewRecord, Source},
    digest::Digest,
    key::ActionKey,
    peer::PeerId,
};
use std::io::{self, Read, Write};

/// Version of the protocol. Both ends come from one installation, but an agent may outlive an
/// upgrade of the command next to it.
pub const VERSION: u32 = 1;
/// Most bytes of a message frame.
const MAX_MESSAGE: usize = 2 * MAX_RECORD;
/// Most bytes of a content frame.
pub const MAX_DATA: usize = 256 * 1024;
/// Length that stands for "the content ends here, and is not whole".
const ABORT: u32 = u32::MAX;

/// What a command asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Starts a connection.
    Hello {
        /// [`VERSION`] of the sender.
        version: u32,
    },
    /// `Cache::lookup`.
    Lookup(ActionKey),
    /// `Cache::fetch`.
    Fetch(Digest),
    /// `Cache::open`: content frames follow the answer.
    Open(Digest),
    /// `Cache::put_blob`: content frames follow the request.
    PutBlob(Digest),
    /// `Cache::put_record`.
    PutRecord(NewRecord),
    /// `Cache::flush`.
    Flush,
    /// Asks for a [`Status`].
    Status,
}

/// What the owner of the data directory answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// The connection is open.
    Welcome {
        /// [`VERSION`] of the sender.
        version: u32,
    },
    /// Still at it; more answers follow.
    Working,
    /// What was asked for is not there.
    Missing,
    /// A hit.
    Hit {
        /// The record.
        record: SealedRecord,
        /// Where it was.
        source: Source,
        /// Payload bytes that peers sent.
        bytes: u64,
    },
    /// The blob is on disk.
    Fetched {
        /// Where it was.
        source: Source,
        /// Payload bytes that peers sent.
        bytes: u64,
    },
    /// It is done; for `Open`, the content follows.
    Done,
    /// It failed, for this reason.
    Failed(String),
    /// The state of the process.
    Status(Box<Status>),
}

/// The state of the process that owns a data directory.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Status {
    /// `agent` or `run`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// Version of netbuild.
    pub version: String,
    /// Region; empty when it has none.
    pub region: String,
    /// Peer id in text form.
    pub peer: String,
    /// Multiaddresses of the mesh port; empty without a mesh.
    pub mesh_addresses: Vec<String>,
    /// UDP address of the data plane; empty without a mesh.
    pub data_address: String,
    /// The join ticket; empty without a mesh.
    pub ticket: String,
    /// Members of the mesh that this agent knows.
    pub members: Vec<Member>,
    /// What is stored.
    pub store: StoreStatus,
    /// Named counters, sorted by name.
    pub counters: Vec<(String, u64)>,
}

/// Another agent as seen from here.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Member {
    /// Peer id in text form.
    pub peer: String,
    /// Region; empty when it has none.
    pub region: String,
    /// Addresses of its data plane.
    pub addresses: Vec<String>,
    /// Smoothed round-trip time in microseconds, once measured.
    pub rtt_us: Option<u64>,
    /// Why it is not asked at present, if so.
    pub resting: Option<String>,
    /// Records that it announced.
    pub records: u64,
}

/// What a store holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct StoreStatus {
    /// Blobs.
    pub blobs: u64,
    /// Bytes of these blobs.
    pub blob_bytes: u64,
    /// Records.
    pub records: u64,
    /// Damaged things put aside since the process started.
    pub quarantined: u64,
}

#[derive(Encode, Decode)]
enum RequestV1 {
    Hello { version: u32 },
    Lookup([u8; 32]),
    Fetch(DigestV1),
    Open(DigestV1),
    PutBlob(DigestV1),
    PutRecord(NewRecordV1),
    Flush,
    Status,
}

#[derive(Encode, Decode)]
enum SourceV1 {
    Disk,
    Peer { peer: [u8; 32], region: String },
}

#[derive(Encode, Decode)]
enum ResponseV1 {
    Welcome { version: u32 },
    Working,
    Missing,
    Hit { record: Vec<u8>, source: SourceV1, bytes: u64 },
    Fetched { source: SourceV1, bytes: u64 },
    Done,
    Failed(String),
    Status(Status),
}

fn source_to_wire(source: &Source) -> SourceV1 {
    match source {
        Source::Disk => SourceV1::Disk,
        Source::Peer { peer, region } => SourceV1::Peer { peer: peer.0, region: region.clone() },
    }
}

fn source_from_wire(source: SourceV1) -> Source {
    match source {
        SourceV1::Disk => Source::Disk,
        SourceV1::Peer { peer, region } => Source::Peer { peer: PeerId(peer), region },
    }
}

impl Request {
    /// Sends the request.
    pub fn write(&self, socket: &mut impl Write) -> io::Result<()> {
        let wire = match self {
            Self::Hello { version } => RequestV1::Hello { version: *version },
            Self::Lookup(key) => RequestV1::Lookup(key.0),
            Self::Fetch(blob) => RequestV1::Fetch((*blob).into()),
            Self::Open(blob) => RequestV1::Open((*blob).into()),
            Self::PutBlob(blob) => RequestV1::PutBlob((*blob).into()),
            Self::PutRecord(record) => RequestV1::PutRecord(record.into()),
            Self::Flush => RequestV1::Flush,
            Self::Status => RequestV1::Status,
        };
        frame::write(socket, &codec::encode(&wire))
    }

    /// Receives a request; `None` when the other end is gone.
    pub fn read(socket: &mut impl Read) -> io::Result<Option<Self>> {
        let Some(wire) = frame::read::<RequestV1, MAX_MESSAGE>(socket)? else { return Ok(None) };
        Ok(Some(match wire {
            RequestV1::Hello { version } => Self::Hello { version },
            RequestV1::Lookup(key) => Self::Lookup(ActionKey(key)),
            RequestV1::Fetch(blob) => Self::Fetch(blob.into()),
            RequestV1::Open(blob) => Self::Open(blob.into()),
            RequestV1::PutBlob(blob) => Self::PutBlob(blob.into()),
            RequestV1::PutRecord(record) => Self::PutRecord(record.try_into().map_err(invalid)?),
            RequestV1::Flush => Self::Flush,
            RequestV1::Status => Self::Status,
        }))
    }
}

impl Response {
    /// Sends the response.
    pub fn write(&self, socket: &mut impl Write) -> io::Result<()> {
        let wire = match self {
            Self::Welcome { version } => ResponseV1::Welcome { version: *version },
            Self::Working => ResponseV1::Working,
            Self::Missing => ResponseV1::Missing,
            Self::Hit { record, source, bytes } => ResponseV1::Hit {
                record: record.as_bytes().to_vec(),
                source: source_to_wire(source),
                bytes: *bytes,
            },
            Self::Fetched { source, bytes } => {
                ResponseV1::Fetched { source: source_to_wire(source), bytes: *bytes }
            }
            Self::Done => ResponseV1::Done,
            Self::Failed(reason) => ResponseV1::Failed(reason.clone()),
            Self::Status(status) => ResponseV1::Status((**status).clone()),
        };
        frame::write(socket, &codec::encode(&wire))
    }

    /// Receives a response.
    pub fn read(socket: &mut impl Read) -> io::Result<Self> {
        let wire = frame::read::<ResponseV1, MAX_MESSAGE>(socket)?;
        let wire = wire.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(match wire {
            ResponseV1::Welcome { version } => Self::Welcome { version },
            ResponseV1::Working => Self::Working,
            ResponseV1::Missing => Self::Missing,
            ResponseV1::Hit { record, source, bytes } => Self::Hit {
                record: SealedRecord::open(&record).map_err(invalid)?,
                source: source_from_wire(source),
                bytes,
            },
            ResponseV1::Fetched { source, bytes } => {
                Self::Fetched { source: source_from_wire(source), bytes }
            }
            ResponseV1::Done => Self::Done,
            ResponseV1::Failed(reason) => Self::Failed(reason),
            ResponseV1::Status(status) => Self::Status(Box::new(status)),
        })
    }
}

/// Sends all that `content` yields, and its end. A reader that fails is passed on as an abort
/// and returned as the inner error; the outer one is the socket's.
pub fn write_content(
    socket: &mut impl Write,
    content: &mut dyn Read,
) -> io::Result<Result<(), io::Error>> {
    let mut buffer = vec![0; MAX_DATA];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => {
                socket.write_all(&0_u32.to_le_bytes())?;
                return Ok(Ok(()));
            }
            Ok(count) => {
                socket.write_all(&(count as u32).to_le_bytes())?;
                socket.write_all(&buffer[..count])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                socket.write_all(&ABORT.to_le_bytes())?;
                return Ok(Err(error));
            }
        }
    }
}

/// Content frames as a reader. Must be read to its end before the socket is used again.
#[derive(Debug)]
pub struct ContentReader<S> {
    socket: S,
    left: usize,
    ended: bool,
}

impl<S: Read> ContentReader<S> {
    /// Reads the content that comes next on `socket`.
    pub fn new(socket: S) -> Self {
        Self { socket, left: 0, ended: false }
    }

    /// The socket, to be used again once the end was read.
    pub fn into_inner(self) -> S {
        self.socket
    }
}

impl<S: Read> Read for ContentReader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let mut len = [0; 4];
            self.socket.read_exact(&mut len)?;
            match u32::from_le_bytes(len) {
                0 => {
                    self.ended = true;
                    return Ok(0);
                }
                ABORT => {
                    self.ended = true;
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the other end could not read the content to its end",
                    ));
                }
                len if len as usize > MAX_DATA => {
                    return Err(invalid(DecodeError::TooLong {
                        len: len as usize,
                        limit: MAX_DATA,
                    }));
                }
                len => self.left = len as usize,
            }
        }
        let most = self.left.min(buffer.len());
        let count = self.socket.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;
    use netbuild_core::peer::Identity;
    use proptest::prelude::*;

    #[test]
    fn requests_and_responses_read_back() {
        let identity = Identity::from_seed(&[1; 32]);
        let full = record(&identity);
        let new = NewRecord {
            key: full.key,
            result: full.result.clone(),
            execution: full.execution.clone(),
        };
        let mut bytes = Vec::new();
        let requests = [Request::Hello { version: 1 }, Request::PutRecord(new), Request::Flush];
        requests.iter().for_each(|request| request.write(&mut bytes).unwrap());
        let mut reader = bytes.as_slice();
        for request in requests {
            assert_eq!(Request::read(&mut reader).unwrap(), Some(request));
        }
        assert_eq!(Request::read(&mut reader).unwrap(), None);

        let source = Source::Peer { peer: identity.peer_id(), region: "us-east".into() };
        let record = SealedRecord::seal(full, &identity).unwrap();
        let responses = [
            Response::Hit { record, source: source.clone(), bytes: 7 },
            Response::Fetched { source, bytes: 9 },
            Response::Status(Box::default()),
        ];
        let mut bytes = Vec::new();
        responses.iter().for_each(|response| response.write(&mut bytes).unwrap());
        let mut reader = bytes.as_slice();
        for response in responses {
            assert_eq!(Response::read(&mut reader).unwrap(), response);
        }
    }

    #[test]
    fn content_arrives_whole_or_is_known_not_to() {
        let content = vec![7; MAX_DATA * 2 + 5];
        let mut bytes = Vec::new();
        write_content(&mut bytes, &mut content.as_slice()).unwrap().unwrap();
        let mut read = Vec::new();
        ContentReader::new(bytes.as_slice()).read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        bytes.truncate(MAX_DATA + 100);
        assert!(ContentReader::new(bytes.as_slice()).read_to_end(&mut Vec::new()).is_err());

        struct Failing(bool);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::ErrorKind::Other.into());
                }
                buffer[0] = 1;
                Ok(1)
            }
        }
        let mut bytes = Vec::new();
        assert!(write_content(&mut bytes, &mut Failing(false)).unwrap().is_err());
        assert!(ContentReader::new(bytes.as_slice()).read_to_end(&mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::read(&mut bytes.as_slice());
            let _ = Response::read(&mut bytes.as_slice());
            let _ = ContentReader::new(bytes.as_slice()).read_to_end(&mut Vec::new());
        }
    }
}
