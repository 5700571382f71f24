//! Rumours and the messages that carry them from one agent to the next.
//!
//! Laid out by hand, big-endian, because an agent passes on every rumour of its mesh and a general
//! encoding would cost more than what it carries:
//!
//! ```text
//! message  flags 1 (1 prune, 2 graft) | rumours 2 | have 2 | want 2 | (length 2, body) ... | id 8 ... | id 8 ...
//! rumour   origin 32 | sequence 8 | sealed ... | signature 64
//! ```

use crate::DecodeError;
use netbuild_core::{
    gossip::{MAX_BODY, MAX_IDS, MAX_MESSAGE, Message, RumourId},
    peer::{Identity, PeerId},
};

const PRUNE: u8 = 1;
const GRAFT: u8 = 2;

const ORIGIN: usize = 32;
const SEQUENCE: usize = 8;
const SIGNATURE: usize = 64;
/// Bytes that an envelope adds to what it carries.
pub const ENVELOPE: usize = ORIGIN + SEQUENCE + SIGNATURE;
/// Most bytes that an envelope can carry.
pub const MAX_SEALED: usize = MAX_BODY - ENVELOPE;

/// Tells a signature of a rumour apart from every other signature of an agent.
const SIGNED: &[u8] = b"netbuild rumour 1\0";

/// The body of a rumour: what its origin signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Who says it.
    pub origin: PeerId,
    /// Grows with everything that the origin says.
    pub sequence: u64,
    /// What is said, sealed under the mesh key.
    pub sealed: Vec<u8>,
    signature: [u8; SIGNATURE],
}

impl Envelope {
    /// Signs what `identity` says. `None` for more than [`MAX_SEALED`] bytes.
    pub fn sign(identity: &Identity, sequence: u64, sealed: Vec<u8>) -> Option<Self> {
        if sealed.len() > MAX_SEALED {
            return None;
        }
        let origin = identity.peer_id();
        let signature = identity.sign(&signed(&origin, sequence, &sealed));
        Some(Self { origin, sequence, sealed, signature })
    }

    /// Whether the origin signed it.
    pub fn is_genuine(&self) -> bool {
        let signed = signed(&self.origin, self.sequence, &self.sealed);
        self.origin.verify(&signed, &self.signature)
    }

    /// The body of the rumour.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(ENVELOPE + self.sealed.len());
        body.extend_from_slice(&self.origin.0);
        body.extend_from_slice(&self.sequence.to_be_bytes());
        body.extend_from_slice(&self.sealed);
        body.extend_from_slice(&self.signature);
        body
    }

    /// Reads the body of a rumour; the signature is not checked yet.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        if body.len() > MAX_BODY {
            return Err(DecodeError::TooLong { len: body.len(), limit: MAX_BODY });
        }
        let short = || DecodeError::Malformed("a rumour without an envelope".into());
        let (origin, rest) = body.split_first_chunk::<ORIGIN>().ok_or_else(short)?;
        let (sequence, rest) = rest.split_first_chunk::<SEQUENCE>().ok_or_else(short)?;
        let (sealed, signature) = rest.split_last_chunk::<SIGNATURE>().ok_or_else(short)?;
        Ok(Self {
            origin: PeerId(*origin),
            sequence: u64::from_be_bytes(*sequence),
            sealed: sealed.to_vec(),
            signature: *signature,
        })
    }
}

fn signed(origin: &PeerId, sequence: u64, sealed: &[u8]) -> Vec<u8> {
    [SIGNED, &origin.0, &sequence.to_be_bytes(), sealed].concat()
}

/// The bytes of a message; at most what [`Message::wire_len`] says. `None` when it is not within its
/// own bounds.
pub fn encode(message: &Message) -> Option<Vec<u8>> {
    if !message.is_bounded() {
        return None;
    }
    let mut bytes = Vec::with_capacity(message.wire_len());
    let prune = if message.prune { PRUNE } else { 0 };
    let graft = if message.graft { GRAFT } else { 0 };
    bytes.push(prune | graft);
    for count in [message.rumours.len(), message.have.len(), message.want.len()] {
        bytes.extend_from_slice(&u16::try_from(count).ok()?.to_be_bytes());
    }
    for body in &message.rumours {
        bytes.extend_from_slice(&u16::try_from(body.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(body);
    }
    for id in message.have.iter().chain(&message.want) {
        bytes.extend_from_slice(&id.0.to_be_bytes());
    }
    Some(bytes)
}

/// Reads a message within its bounds.
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(DecodeError::TooLong { len: bytes.len(), limit: MAX_MESSAGE });
    }
    let mut reader = Reader(bytes);
    let [flags] = reader.take()?;
    if flags & !(PRUNE | GRAFT) != 0 {
        return Err(DecodeError::Invalid(format!("flags {flags:#04x}")));
    }
    let (rumours, have, want) = (reader.count()?, reader.count()?, reader.count()?);
    if have > MAX_IDS || want > MAX_IDS {
        return Err(DecodeError::Invalid(format!("{have} and {want} ids")));
    }
    let mut message =
        Message { prune: flags & PRUNE != 0, graft: flags & GRAFT != 0, ..Message::default() };
    for _ in 0..rumours {
        message.rumours.push(reader.body()?.into());
    }
    message.have = reader.ids(have)?;
    message.want = reader.ids(want)?;
    if !reader.0.is_empty() {
        return Err(DecodeError::Trailing(reader.0.len()));
    }
    if !message.is_bounded() {
        return Err(DecodeError::Invalid(format!("a message of {} bytes", message.wire_len())));
    }
    Ok(message)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn count(&mut self) -> Result<usize, DecodeError> {
        self.take().map(u16::from_be_bytes).map(usize::from)
    }

    fn body(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.count()?;
        let (body, rest) = self.0.split_at_checked(length).ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(body)
    }

    fn ids(&mut self, count: usize) -> Result<Vec<RumourId>, DecodeError> {
        (0..count).map(|_| self.take().map(u64::from_be_bytes).map(RumourId)).collect()
    }
}

fn cut_short() -> DecodeError {
    DecodeError::Malformed("a message that ends too early".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids() -> impl Strategy<Value = Vec<RumourId>> {
        prop::collection::vec(any::<u64>().prop_map(RumourId), 0..40)
    }

    fn message() -> impl Strategy<Value = Message> {
        let body = prop::collection::vec(any::<u8>(), 0..200).prop_map(|body| body.into());
        let rumours = prop::collection::vec(body, 0..10);
        (rumours, ids(), ids(), any::<bool>(), any::<bool>()).prop_map(
            |(rumours, have, want, prune, graft)| Message { rumours, have, want, prune, graft },
        )
    }

    #[test]
    fn the_largest_message_fits() {
        let ids = vec![RumourId(u64::MAX); MAX_IDS];
        let body = vec![7; MAX_BODY].into();
        let full =
            Message { rumours: vec![body], have: ids.clone(), want: ids, prune: true, graft: true };
        let bytes = encode(&full).unwrap();
        assert!(bytes.len() <= full.wire_len());
        assert_eq!(decode(&bytes).unwrap(), full);
        let beyond = Message { have: vec![RumourId(1); MAX_IDS + 1], ..Message::default() };
        assert_eq!(encode(&beyond), None);
    }

    #[test]
    fn an_envelope_is_bound_to_origin_sequence_and_content() {
        let identity = Identity::from_seed(&[1; 32]);
        let envelope = Envelope::sign(&identity, 7, b"sealed".to_vec()).unwrap();
        let read = Envelope::decode(&envelope.encode()).unwrap();
        assert_eq!(read, envelope);
        assert!(read.is_genuine());
        let other = Identity::from_seed(&[2; 32]).peer_id();
        assert!(!Envelope { origin: other, ..envelope.clone() }.is_genuine());
        assert!(!Envelope { sequence: 8, ..envelope.clone() }.is_genuine());
        assert!(!Envelope { sealed: b"else".to_vec(), ..envelope }.is_genuine());
        assert_eq!(Envelope::sign(&identity, 7, vec![0; MAX_SEALED + 1]), None);
    }

    proptest! {
        #[test]
        fn a_message_reads_back(message in message()) {
            let bytes = encode(&message).unwrap();
            prop_assert!(bytes.len() <= message.wire_len());
            prop_assert_eq!(decode(&bytes).unwrap(), message);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = decode(&bytes) {
                prop_assert!(message.is_bounded());
            }
            let _ = Envelope::decode(&bytes).map(|envelope| envelope.is_genuine());
        }

        #[test]
        fn a_message_that_is_cut_short_is_refused(message in message(), cut in 1usize..20) {
            let bytes = encode(&message).unwrap();
            prop_assert!(decode(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
        }
    }
}
