//! The data plane: what a requester asks of a provider on one QUIC stream, and how it is answered.
//!
//! A stream carries request frames one after the other, until the requester ends it, and their
//! answers in the same order; a requester may send the next request before the answers to the last
//! one are there. A frame is its length as 32-bit little-endian, then that many bytes.
//!
//! | request | answer |
//! |---|---|
//! | records, manifests | a frame for each thing asked for, an empty one when the provider lacks it |
//! | parts | a frame for each blob, see [`crate::parts`] |
//! | chunks, delta | *runs*, each a frame that answers the next few chunks, see [`RunHeader`]; and while the provider works on one, at most [`MAX_BEATS`] empty frames before it |
//! | has, doubt | one frame, a [bitmap](encode_bitmap) |
//! | bring | [`HEARTBEAT`] frames while the provider works on it, then the bitmap |
//! | probe | one frame of exactly the length asked for, or an empty one when there was enough of that |

use crate::{
    codec::{self, DecodeError},
    record::DigestV1,
};
use bincode::{Decode, Encode};
use netbuild_core::{
    chunk::{Chunk, MAX_CHUNK, MAX_CHUNKS, Manifest},
    codec::{Codec, Codecs, Policy},
    digest::{Digest, Hash},
    key::ActionKey,
};
use std::fmt;

/// Most bytes of a request frame.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Most bytes of a sketch of a blob: what the largest kind of sketch needs, and a little more.
pub const MAX_SKETCH: usize = 160;
/// Most bytes of a manifest frame: [`MAX_CHUNKS`] chunks of at most 37 bytes, and a sketch.
pub const MAX_MANIFEST: usize = MAX_CHUNKS * 37 + MAX_SKETCH + 64;
/// Most bytes of one chunk of a manifest: a hash and a number.
const MAX_CHUNK_BYTES: usize = 37;
/// Most keys, blobs or chunks in one request, well within [`MAX_REQUEST`].
pub const MAX_ITEMS: usize = 1024;
/// Most bytes that a probe may ask for: enough to fill 100 Mbit/s over 80 ms.
pub const MAX_PROBE: u32 = 1 << 20;
/// Content of the frame that says "still at it" in answer to [`Request::Bring`]. No bitmap is as
/// short.
pub const HEARTBEAT: [u8; 1] = [0];
/// Most bytes of a bitmap frame: its count and a bit for each of [`MAX_ITEMS`].
pub const MAX_BITMAP: usize = 2 + MAX_ITEMS / 8;

/// Most decoded bytes of one run, and with its header of one frame: a run is kept in memory whole,
/// at both ends. Patches, for which every run has to search the base anew, are of this length.
pub const MAX_RUN: usize = 8 << 20;
/// Empty frames before a run. A provider sends two a second while it works on the run, so there is
/// half a minute for that: enough for a patch on a machine whose cores are busy with a build.
pub const MAX_BEATS: u32 = 60;
/// Chunks that a requester may say to have got wrong in one request: of one source it takes no more
/// after the first, so there are hardly ever two.
pub const MAX_DOUBTED: usize = 4;
/// Blobs that a requester may name as bases of a patch.
pub const MAX_BASES: usize = 4;

/// How soon the answer to a request is needed, against other answers on the same connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Priority {
    /// When there is nothing else to send.
    Background,
    /// As usual.
    #[default]
    Normal,
    /// Somebody waits for it.
    Urgent,
}

/// What a requester takes as an answer to a request for chunks, and what it knows that helps to
/// choose how they are coded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accept {
    /// What it can read.
    pub codecs: Codecs,
    /// Bytes per second that it believes the link to give; 0 when it does not know.
    pub goodput: u64,
    /// Bytes per second that it decodes; 0 when it does not know.
    pub decode: u64,
    /// How the codec is to be chosen.
    pub policy: Policy,
    /// How soon it is needed.
    pub priority: Priority,
}

impl Default for Accept {
    /// Takes everything and knows nothing.
    fn default() -> Self {
        Self {
            codecs: Codecs::ALL,
            goodput: 0,
            decode: 0,
            policy: Policy::default(),
            priority: Priority::default(),
        }
    }
}

#[derive(Encode, Decode)]
struct AcceptV1 {
    codecs: u8,
    goodput: u64,
    decode: u64,
    policy: PolicyV1,
    priority: PriorityV1,
}

#[derive(Encode, Decode)]
enum PolicyV1 {
    Adaptive,
    Tiers,
    Off,
    Identity,
    Gzip(u8),
    Zstd(u8),
}

#[derive(Encode, Decode)]
enum PriorityV1 {
    Background,
    Normal,
    Urgent,
}

impl From<Accept> for AcceptV1 {
    fn from(accept: Accept) -> Self {
        Self {
            codecs: accept.codecs.bits(),
            goodput: accept.goodput,
            decode: accept.decode,
            policy: match accept.policy {
                Policy::Adaptive => PolicyV1::Adaptive,
                Policy::Tiers => PolicyV1::Tiers,
                Policy::Off => PolicyV1::Off,
                Policy::Fixed(Codec::Identity) => PolicyV1::Identity,
                Policy::Fixed(Codec::Gzip(level)) => PolicyV1::Gzip(level),
                Policy::Fixed(Codec::Zstd(level)) => PolicyV1::Zstd(level),
            },
            priority: match accept.priority {
                Priority::Background => PriorityV1::Background,
                Priority::Normal => PriorityV1::Normal,
                Priority::Urgent => PriorityV1::Urgent,
            },
        }
    }
}

impl TryFrom<AcceptV1> for Accept {
    type Error = DecodeError;

    fn try_from(wire: AcceptV1) -> Result<Self, DecodeError> {
        let fixed = |codec: Codec| match codec.is_valid() {
            true => Ok(Policy::Fixed(codec)),
            false => Err(DecodeError::Invalid(format!("there is no codec {codec}"))),
        };
        Ok(Self {
            codecs: Codecs::from_bits(wire.codecs),
            goodput: wire.goodput,
            decode: wire.decode,
            policy: match wire.policy {
                PolicyV1::Adaptive => Policy::Adaptive,
                PolicyV1::Tiers => Policy::Tiers,
                PolicyV1::Off => Policy::Off,
                PolicyV1::Identity => Policy::Fixed(Codec::Identity),
                PolicyV1::Gzip(level) => fixed(Codec::Gzip(level))?,
                PolicyV1::Zstd(level) => fixed(Codec::Zstd(level))?,
            },
            priority: match wire.priority {
                PriorityV1::Background => Priority::Background,
                PriorityV1::Normal => Priority::Normal,
                PriorityV1::Urgent => Priority::Urgent,
            },
        })
    }
}

/// How the body of a run is coded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Coding {
    /// There is no body: the provider lacks these chunks.
    Absent,
    /// The chunks one after the other, as they are.
    Identity,
    /// The same as one RFC 1952 member.
    Gzip,
    /// The same as RFC 8878 frames.
    Zstd,
    /// One byte with the place of the base in the request, and a patch against that.
    Delta,
}

impl Coding {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Absent, Self::Identity, Self::Gzip, Self::Zstd, Self::Delta]
            .get(usize::from(byte))
            .copied()
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Delta => "delta",
        })
    }
}

/// The beginning of a frame that answers chunks; the body is the rest of it.
///
/// The header is a byte for the coding, in its low seven bits, and for [`RunHeader::late`], in the
/// highest; the count of chunks as 16-bit and their length together as 32-bit little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunHeader {
    /// How the body is coded.
    pub coding: Coding,
    /// Whether the link had to wait for this run, because coding it took longer than sending what
    /// came before: the pace at which it arrives is then not that of the link.
    pub late: bool,
    /// How many of the chunks asked for it answers: the next ones in the order of the request.
    pub count: u16,
    /// Bytes of these chunks together; 0 when they are absent.
    pub decoded: u32,
}

/// Bytes of a [`RunHeader`].
pub const RUN_HEADER: usize = 7;
const LATE: u8 = 1 << 7;

impl RunHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; RUN_HEADER] {
        let [a, b] = self.count.to_le_bytes();
        let [c, d, e, f] = self.decoded.to_le_bytes();
        let late = if self.late { LATE } else { 0 };
        [self.coding as u8 | late, a, b, c, d, e, f]
    }

    /// Reads the header of a frame whose body has `body` bytes, in answer to the chunks of `asked`
    /// that are still to be answered, and checks that the two fit. No body is longer than what it
    /// stands for, so a frame never costs more memory than what was asked for.
    pub fn decode(
        bytes: [u8; RUN_HEADER],
        body: usize,
        asked: &[Chunk],
    ) -> Result<Self, DecodeError> {
        let invalid = |why: String| Err(DecodeError::Invalid(why));
        let [first, a, b, c, d, e, f] = bytes;
        let Some(coding) = Coding::from_byte(first & !LATE) else {
            return invalid(format!("there is no coding {}", first & !LATE));
        };
        let (count, decoded) = (u16::from_le_bytes([a, b]), u32::from_le_bytes([c, d, e, f]));
        let header = Self { coding, late: first & LATE != 0, count, decoded };
        let Some(chunks) = asked.get(..usize::from(count)).filter(|chunks| !chunks.is_empty())
        else {
            return invalid(format!("a run of {count} chunks where {} are asked for", asked.len()));
        };
        let length: u64 = match coding {
            Coding::Absent => 0,
            _ => chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
        };
        if u64::from(decoded) != length || length > MAX_RUN as u64 {
            return invalid(format!("a run of {decoded} bytes for chunks of {length}"));
        }
        let fits = match coding {
            Coding::Absent | Coding::Identity => body == decoded as usize,
            Coding::Gzip | Coding::Zstd | Coding::Delta => (1..decoded as usize).contains(&body),
        };
        if !fits {
            return invalid(format!("{body} bytes of {coding} for {decoded}"));
        }
        Ok(header)
    }
}

/// What a requester asks for on one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Sealed records, one frame each.
    Records(Vec<ActionKey>),
    /// Manifests of blobs, one frame each.
    Manifests(Vec<Digest>),
    /// Chunks of any blobs, in runs.
    Chunks {
        /// Which; each is of 1 to [`MAX_CHUNK`] bytes.
        chunks: Vec<Chunk>,
        /// How they may come.
        accept: Accept,
    },
    /// Some of the chunks of a blob, in runs, best as patches against a blob that the requester has.
    Delta {
        /// The blob.
        target: Digest,
        /// What the requester has, what it deems most similar first; 1 to [`MAX_BASES`].
        bases: Vec<Digest>,
        /// The first of the chunks, by its place in the blob's manifest.
        first: u32,
        /// How many, 1 to [`MAX_ITEMS`].
        count: u32,
        /// How they may come.
        accept: Accept,
    },
    /// Which of these blobs the provider has whole.
    Has(Vec<Digest>),
    /// The provider should get these blobs from wherever it can, and then say which it has.
    Bring(Vec<Digest>),
    /// Bytes without meaning, to measure the way; at most [`MAX_PROBE`].
    Probe {
        /// How many.
        bytes: u32,
    },
    /// How much of these blobs the provider has.
    Parts(Vec<Digest>),
    /// What came as these chunks, 1 to [`MAX_DOUBTED`], was not them: the provider should look, and
    /// then say which of them it has.
    Doubt(Vec<Chunk>),
}

#[derive(Encode, Decode)]
struct ChunkV1 {
    hash: [u8; 32],
    len: u32,
}

#[derive(Encode, Decode)]
enum RequestV1 {
    Records(Vec<[u8; 32]>),
    Manifests(Vec<DigestV1>),
    Chunks { chunks: Vec<ChunkV1>, accept: AcceptV1 },
    Has(Vec<DigestV1>),
    Bring(Vec<DigestV1>),
    Probe(u32),
    Delta { target: DigestV1, bases: Vec<DigestV1>, first: u32, count: u32, accept: AcceptV1 },
    Parts(Vec<DigestV1>),
    Doubt(Vec<ChunkV1>),
}

fn blobs_to_wire(blobs: &[Digest]) -> Vec<DigestV1> {
    blobs.iter().copied().map(DigestV1::from).collect()
}

fn blobs_from_wire(wire: Vec<DigestV1>) -> Vec<Digest> {
    wire.into_iter().map(Digest::from).collect()
}

fn chunks_to_wire(chunks: &[Chunk]) -> Vec<ChunkV1> {
    chunks.iter().map(|chunk| ChunkV1 { hash: chunk.hash.0, len: chunk.len }).collect()
}

/// Whether these chunks can be at all: no manifest names one of another length.
fn possible_chunks(chunks: Vec<Chunk>) -> Result<Vec<Chunk>, DecodeError> {
    match chunks.iter().find(|chunk| chunk.len == 0 || chunk.len as usize > MAX_CHUNK) {
        Some(bad) => Err(DecodeError::Invalid(format!("a chunk of {} bytes", bad.len))),
        None => Ok(chunks),
    }
}

fn chunks_from_wire(wire: Vec<ChunkV1>) -> Vec<Chunk> {
    wire.into_iter().map(|chunk| Chunk { hash: Hash(chunk.hash), len: chunk.len }).collect()
}

impl Request {
    /// The frame's content. At most [`MAX_ITEMS`] items may be asked for at once.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&match self {
            Self::Records(keys) => RequestV1::Records(keys.iter().map(|key| key.0).collect()),
            Self::Manifests(blobs) => RequestV1::Manifests(blobs_to_wire(blobs)),
            Self::Chunks { chunks, accept } => {
                RequestV1::Chunks { chunks: chunks_to_wire(chunks), accept: (*accept).into() }
            }
            Self::Delta { target, bases, first, count, accept } => RequestV1::Delta {
                target: (*target).into(),
                bases: blobs_to_wire(bases),
                first: *first,
                count: *count,
                accept: (*accept).into(),
            },
            Self::Has(blobs) => RequestV1::Has(blobs_to_wire(blobs)),
            Self::Bring(blobs) => RequestV1::Bring(blobs_to_wire(blobs)),
            Self::Probe { bytes } => RequestV1::Probe(*bytes),
            Self::Parts(blobs) => RequestV1::Parts(blobs_to_wire(blobs)),
            Self::Doubt(chunks) => RequestV1::Doubt(chunks_to_wire(chunks)),
        })
    }

    /// Reads and checks a request frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let request = match codec::decode::<RequestV1, MAX_REQUEST>(bytes)? {
            RequestV1::Records(keys) => Self::Records(keys.into_iter().map(ActionKey).collect()),
            RequestV1::Manifests(blobs) => Self::Manifests(blobs_from_wire(blobs)),
            RequestV1::Chunks { chunks, accept } => Self::Chunks {
                chunks: possible_chunks(chunks_from_wire(chunks))?,
                accept: accept.try_into()?,
            },
            RequestV1::Delta { target, bases, first, count, accept } => {
                if !(1..=MAX_BASES).contains(&bases.len()) {
                    return Err(DecodeError::Invalid(format!("{} bases", bases.len())));
                }
                if count == 0 || first.checked_add(count).is_none() {
                    let why = format!("{count} chunks from the one at {first} on");
                    return Err(DecodeError::Invalid(why));
                }
                Self::Delta {
                    target: target.into(),
                    bases: blobs_from_wire(bases),
                    first,
                    count,
                    accept: accept.try_into()?,
                }
            }
            RequestV1::Has(blobs) => Self::Has(blobs_from_wire(blobs)),
            RequestV1::Bring(blobs) => Self::Bring(blobs_from_wire(blobs)),
            RequestV1::Probe(bytes) if bytes <= MAX_PROBE => Self::Probe { bytes },
            RequestV1::Probe(bytes) => {
                return Err(DecodeError::Invalid(format!("a probe of {bytes} bytes")));
            }
            RequestV1::Parts(blobs) => Self::Parts(blobs_from_wire(blobs)),
            RequestV1::Doubt(chunks) if (1..=MAX_DOUBTED).contains(&chunks.len()) => {
                Self::Doubt(possible_chunks(chunks_from_wire(chunks))?)
            }
            RequestV1::Doubt(chunks) => {
                return Err(DecodeError::Invalid(format!("{} chunks doubted", chunks.len())));
            }
        };
        match request.items() {
            0..=MAX_ITEMS => Ok(request),
            count => Err(DecodeError::Invalid(format!("{count} things asked for at once"))),
        }
    }

    /// How many things are asked for.
    pub fn items(&self) -> usize {
        match self {
            Self::Records(keys) => keys.len(),
            Self::Manifests(blobs) | Self::Has(blobs) | Self::Bring(blobs) | Self::Parts(blobs) => {
                blobs.len()
            }
            Self::Chunks { chunks, .. } | Self::Doubt(chunks) => chunks.len(),
            Self::Delta { count, .. } => *count as usize,
            Self::Probe { .. } => 1,
        }
    }
}

/// The content of the frame that answers [`Request::Has`], [`Request::Bring`] and
/// [`Request::Doubt`]: how many bits as 16-bit little-endian, then the bits, the first in the lowest place of the first byte and zeroes
/// behind the last. There are at most [`MAX_ITEMS`].
pub fn encode_bitmap(bits: &[bool]) -> Vec<u8> {
    let mut bytes = (bits.len() as u16).to_le_bytes().to_vec();
    bytes.extend(packed(bits));
    bytes
}

/// Eight bits a byte, the first in the lowest place, and zeroes behind the last.
pub(crate) fn packed(bits: &[bool]) -> impl Iterator<Item = u8> + '_ {
    bits.chunks(8).map(|eight| {
        eight.iter().enumerate().fold(0, |byte, (place, bit)| byte | (u8::from(*bit) << place))
    })
}

/// The first `count` bits of what was [`packed`].
pub(crate) fn unpacked(count: usize, bytes: &[u8]) -> Vec<bool> {
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |place| byte >> place & 1 == 1));
    bits.take(count).collect()
}

/// Reads a bitmap, which must be of exactly `count` bits.
pub fn decode_bitmap(count: usize, bytes: &[u8]) -> Result<Vec<bool>, DecodeError> {
    let bits = unpacked(count, bytes.get(2..).unwrap_or_default());
    // There is one way to write each bitmap, and this is it.
    if bits.len() == count && count <= MAX_ITEMS && bytes == encode_bitmap(&bits) {
        return Ok(bits);
    }
    Err(DecodeError::Invalid(format!("{} bytes are no bitmap of {count}", bytes.len())))
}

/// A manifest, and what may help to find a similar blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    /// The chunks of the blob.
    pub manifest: Manifest,
    /// A sketch of the blob, of 1 to [`MAX_SKETCH`] bytes, if the provider has one.
    pub sketch: Option<Vec<u8>>,
}

/// The content of a manifest frame: the length of the sketch in a byte, the sketch, the chunks. The
/// blob's digest is known to both ends. A sketch that is too long is left out.
pub fn encode_manifest(manifest: &Manifest, sketch: Option<&[u8]>) -> Vec<u8> {
    let sketch = sketch.filter(|sketch| sketch.len() <= MAX_SKETCH).unwrap_or_default();
    let chunks = codec::encode(&chunks_to_wire(manifest.chunks()));
    [&[sketch.len() as u8], sketch, &chunks].concat()
}

/// Reads a manifest frame and checks that its chunks can make up `blob`.
pub fn decode_manifest(blob: Digest, bytes: &[u8]) -> Result<Described, DecodeError> {
    if bytes.len() > MAX_MANIFEST {
        return Err(DecodeError::TooLong { len: bytes.len(), limit: MAX_MANIFEST });
    }
    let cut = || DecodeError::Invalid("a manifest without a whole sketch".into());
    let (length, rest) = bytes.split_first().ok_or_else(cut)?;
    let length = usize::from(*length);
    let (sketch, chunk_bytes) =
        rest.split_at_checked(length).filter(|_| length <= MAX_SKETCH).ok_or_else(cut)?;
    let mut chunks = Vec::new();
    codec::decode_each::<ChunkV1, MAX_CHUNK_BYTES>(chunk_bytes, |chunk| {
        chunks.push(Chunk { hash: Hash(chunk.hash), len: chunk.len });
        Ok(())
    })?;
    let manifest =
        Manifest::new(blob, chunks).map_err(|error| DecodeError::Invalid(error.to_string()))?;
    Ok(Described { manifest, sketch: (!sketch.is_empty()).then(|| sketch.to_vec()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accept() -> Accept {
        Accept {
            codecs: Codecs::ZSTD.and(Codecs::IDENTITY),
            goodput: u64::MAX,
            decode: u64::MAX,
            policy: Policy::Fixed(Codec::Zstd(19)),
            priority: Priority::Urgent,
        }
    }

    fn delta(bases: usize, first: u32, count: u32) -> Request {
        let blob = Digest { hash: Hash([2; 32]), size: u64::MAX };
        Request::Delta { target: blob, bases: vec![blob; bases], first, count, accept: accept() }
    }

    #[test]
    fn requests_read_back_and_are_bounded() {
        let chunk = Chunk { hash: Hash([1; 32]), len: MAX_CHUNK as u32 };
        let chunks =
            |chunk, count| Request::Chunks { chunks: vec![chunk; count], accept: accept() };
        let blob = Digest { hash: Hash([2; 32]), size: u64::MAX };
        for request in [
            Request::Records(vec![ActionKey([3; 32]); MAX_ITEMS]),
            Request::Manifests(vec![blob; MAX_ITEMS]),
            chunks(chunk, MAX_ITEMS),
            delta(MAX_BASES, u32::MAX - 1024, MAX_ITEMS as u32),
            Request::Chunks { chunks: Vec::new(), accept: Accept::default() },
            Request::Has(vec![blob; MAX_ITEMS]),
            Request::Bring(vec![blob; MAX_ITEMS]),
            Request::Probe { bytes: MAX_PROBE },
            Request::Parts(vec![blob; MAX_ITEMS]),
            Request::Doubt(vec![chunk; MAX_DOUBTED]),
        ] {
            let bytes = request.encode();
            assert!(bytes.len() <= MAX_REQUEST);
            assert_eq!(Request::decode(&bytes).unwrap(), request);
        }
        for request in [
            chunks(chunk, MAX_ITEMS + 1),
            chunks(Chunk { len: 0, ..chunk }, 1),
            chunks(Chunk { len: chunk.len + 1, ..chunk }, 1),
            delta(0, 0, 1),
            delta(MAX_BASES + 1, 0, 1),
            delta(1, 0, 0),
            delta(1, 0, MAX_ITEMS as u32 + 1),
            delta(1, u32::MAX, 1),
            Request::Chunks {
                chunks: vec![chunk],
                accept: Accept { policy: Policy::Fixed(Codec::Zstd(23)), ..accept() },
            },
            Request::Has(vec![blob; MAX_ITEMS + 1]),
            Request::Bring(vec![blob; MAX_ITEMS + 1]),
            Request::Probe { bytes: MAX_PROBE + 1 },
            Request::Parts(vec![blob; MAX_ITEMS + 1]),
            Request::Doubt(vec![chunk; MAX_DOUBTED + 1]),
            Request::Doubt(Vec::new()),
            Request::Doubt(vec![Chunk { len: 0, ..chunk }]),
        ] {
            assert!(Request::decode(&request.encode()).is_err());
        }
    }

    #[test]
    fn a_manifest_reads_back_only_for_its_blob() {
        let size = (MAX_CHUNK + 5) as u64;
        let blob = Digest { hash: Hash([2; 32]), size };
        let chunks =
            [(1, MAX_CHUNK as u32), (2, 5)].map(|(b, len)| Chunk { hash: Hash([b; 32]), len });
        let manifest = Manifest::new(blob, chunks.to_vec()).unwrap();
        for length in [0, 1, MAX_SKETCH, MAX_SKETCH + 1] {
            let sketch = vec![7; length];
            let bytes = encode_manifest(&manifest, Some(&sketch));
            let described = decode_manifest(blob, &bytes).unwrap();
            assert_eq!(described.manifest, manifest);
            let told = (1..=MAX_SKETCH).contains(&length);
            assert_eq!(described.sketch, told.then_some(sketch));
            assert!(decode_manifest(Digest { size: size + 1, ..blob }, &bytes).is_err());
            assert!(decode_manifest(blob, &bytes[..bytes.len() - 1]).is_err());
        }
        let mut bytes = encode_manifest(&manifest, None);
        bytes[0] = MAX_SKETCH as u8 + 1;
        assert!(decode_manifest(blob, &[bytes, vec![0; 500]].concat()).is_err());
    }

    fn asked(lengths: &[u32]) -> Vec<Chunk> {
        lengths.iter().map(|len| Chunk { hash: Hash([1; 32]), len: *len }).collect()
    }

    #[test]
    fn the_header_of_a_run_has_its_bytes_for_ever() {
        let header =
            RunHeader { coding: Coding::Zstd, late: true, count: 0x0102, decoded: 0x0003_0405 };
        assert_eq!(header.encode(), [0x83, 2, 1, 5, 4, 3, 0]);
        let bytes = [Coding::Absent, Coding::Identity, Coding::Gzip, Coding::Zstd, Coding::Delta]
            .map(|coding| RunHeader { coding, late: false, ..header }.encode()[0]);
        assert_eq!(bytes, [0, 1, 2, 3, 4]);
        let asked = asked(&[0x0003_0405 - 0x0101]).into_iter().chain(asked(&[1; 0x0200]));
        let asked: Vec<_> = asked.collect();
        assert_eq!(RunHeader::decode(header.encode(), 9, &asked).unwrap(), header);
    }

    #[test]
    fn a_run_that_does_not_fit_what_was_asked_for_is_none() {
        let asked = asked(&[10, 20, MAX_RUN as u32]);
        let read = |coding, count, decoded, body| {
            let header = RunHeader { coding, late: false, count, decoded };
            RunHeader::decode(header.encode(), body, &asked).is_ok()
        };
        assert!(read(Coding::Identity, 2, 30, 30) && read(Coding::Zstd, 2, 30, 29));
        assert!(read(Coding::Absent, 3, 0, 0) && read(Coding::Delta, 1, 10, 1));
        let bad = [
            (Coding::Identity, 0, 0, 0),
            (Coding::Identity, 2, 31, 31),
            (Coding::Identity, 2, 30, 29),
            (Coding::Zstd, 2, 30, 30),
            (Coding::Zstd, 2, 30, 0),
            (Coding::Gzip, 2, u32::MAX, 29),
            (Coding::Gzip, 3, MAX_RUN as u32 + 30, 29),
            (Coding::Absent, 4, 0, 0),
            (Coding::Absent, 1, 10, 0),
            (Coding::Absent, 1, 0, 1),
            (Coding::Delta, u16::MAX, 0, 1),
        ];
        for (coding, count, decoded, body) in bad {
            assert!(!read(coding, count, decoded, body), "{coding} {count} {decoded} {body}");
        }
        assert!(RunHeader::decode([5, 1, 0, 10, 0, 0, 0], 1, &asked).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let blob = Digest { hash: Hash([2; 32]), size: 100 };
            let _ = (Request::decode(&bytes), decode_manifest(blob, &bytes));
        }

        #[test]
        fn a_run_is_never_longer_than_what_was_asked_for(
            bytes in any::<[u8; RUN_HEADER]>(),
            count in 0..5_u16,
            body in 0..3000_usize,
            lengths in prop::collection::vec(1..1000_u32, 0..5),
        ) {
            let asked = asked(&lengths);
            let sum: u32 = lengths.iter().take(count.into()).sum();
            let [a, b] = count.to_le_bytes();
            let [c, d, e, f] = sum.to_le_bytes();
            // As it came, and with figures that are right more often.
            for bytes in [bytes, [bytes[0] % 6, a, b, c, d, e, f]] {
                if let Ok(header) = RunHeader::decode(bytes, body, &asked) {
                    prop_assert_eq!(header.encode(), bytes);
                    prop_assert!(body <= header.decoded as usize && header.decoded <= sum.max(4000));
                    prop_assert!((1..=asked.len()).contains(&header.count.into()));
                }
            }
        }

        #[test]
        fn a_request_that_was_changed_on_its_way_is_another_one_or_none(
            flip in any::<prop::sample::Index>(),
            first in any::<u32>(),
            count in 0..2000_u32,
        ) {
            let mut bytes = delta(2, first, count).encode();
            let at = flip.index(bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert!(request.items() <= MAX_ITEMS);
                prop_assert!(Request::decode(&request.encode()).is_ok_and(|again| again == request));
            }
        }

        #[test]
        fn a_bitmap_reads_back_and_only_as_what_it_is(
            bits in prop::collection::vec(any::<bool>(), 0..MAX_ITEMS),
            flip in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode_bitmap(&bits);
            prop_assert!(bytes.len() <= MAX_BITMAP && bytes.len() > HEARTBEAT.len());
            prop_assert_eq!(&decode_bitmap(bits.len(), &bytes).unwrap(), &bits);
            prop_assert!(decode_bitmap(bits.len() + 1, &bytes).is_err());
            let at = flip.index(bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(decode_bitmap(bits.len(), &bytes).ok() != Some(bits));
        }

        #[test]
        fn a_hostile_bitmap_never_panics(
            count in 0..3000_usize,
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(bits) = decode_bitmap(count, &bytes) {
                prop_assert_eq!(bits.len(), count);
                prop_assert_eq!(encode_bitmap(&bits), bytes);
            }
        }
    }
}
