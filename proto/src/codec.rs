//! The one place that turns messages into bytes and back: bincode 2 with a limit and no trailing
//! bytes. Message types must not be recursive (a deep one would overflow the stack) and must not
//! hold hash maps with foreign keys.

use bincode::{Decode, Encode, config};

/// Bytes that are not the message they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than this kind of message may have.
    #[error("message of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// Bytes received.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The bytes do not encode the type.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// Bytes remain after the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// The message decodes, but states something that cannot be.
    #[error("invalid message: {0}")]
    Invalid(String),
    /// The message has a version that is not known yet: its sender is newer, which is no fault.
    #[error("{what} of version {version}, which is newer than this netbuild")]
    Newer {
        /// What it is.
        what: &'static str,
        /// Its version.
        version: u8,
    },
}

impl DecodeError {
    /// The error for a version that is not `known`, the newest that is.
    pub(crate) fn unknown_version(what: &'static str, version: u8, known: u8) -> Self {
        if version > known {
            Self::Newer { what, version }
        } else {
            Self::Invalid(format!("{what} of version {version}"))
        }
    }
}

/// Encodes a message of ours.
pub(crate) fn encode<T: Encode>(message: &T) -> Vec<u8> {
    bincode::encode_to_vec(message, config::standard())
        .expect("encoding into memory has no way to fail for these types")
}

/// Decodes a message of at most `LIMIT` bytes, which also bounds what decoding may allocate.
pub(crate) fn decode<T: Decode<()>, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > LIMIT {
        return Err(DecodeError::TooLong { len: bytes.len(), limit: LIMIT });
    }
    let config = config::standard().with_limit::<LIMIT>();
    let (message, used) = bincode::decode_from_slice(bytes, config)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(message),
        rest => Err(DecodeError::Trailing(rest)),
    }
}

/// Decodes a list of elements of at most `LIMIT` bytes each, one after the other. Unlike [`decode`]
/// it takes memory for what came and not for what is promised, which long lists need: in a small
/// message a large count costs nothing. `take` may refuse an element.
pub(crate) fn decode_each<T: Decode<()>, const LIMIT: usize>(
    bytes: &[u8],
    mut take: impl FnMut(T) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let config = config::standard().with_limit::<LIMIT>();
    let malformed = |error: bincode::error::DecodeError| DecodeError::Malformed(error.to_string());
    let (count, used): (u64, _) = bincode::decode_from_slice(bytes, config).map_err(malformed)?;
    let mut rest = &bytes[used..];
    for _ in 0..count {
        let (element, used) = bincode::decode_from_slice(rest, config).map_err(malformed)?;
        take(element)?;
        rest = &rest[used..];
    }
    match rest.len() {
        0 => Ok(()),
        rest => Err(DecodeError::Trailing(rest)),
    }
}
