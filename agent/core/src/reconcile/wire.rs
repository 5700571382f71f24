//! The bytes of messages. Packed here and not by a general codec, since what is left out is what the
//! algorithm saves: ranges are gaps to the range before, keys lack the prefix of their range.
//!
//! ```text
//! message  version:u8 kind:u8 [nonce:u64 [root:16]] [answered:u32] entry*
//! entry    kind:2 bits, small:6 bits   depth:u8   gap:varint   content
//! ```
//! `small` is the bits of a split, or a count, 63 meaning that a varint follows the gap.

use super::{
    Id,
    range::{MAX_DEPTH, Range},
};
use crate::{hlc::Hlc, key::ActionKey, ledger::Item};
use std::fmt;

/// Most bytes of a message.
pub const MAX_MESSAGE: usize = 128 * 1024;
/// Version of the format, the first byte of every message.
const VERSION: u8 = 1;
/// A count of this many or more follows as a varint.
const LARGE: u8 = 63;

const HELLO: u8 = 0;
const QUERY: u8 = 1;
const ANSWER: u8 = 2;

const FINGERPRINTS: u8 = 0;
const IDS: u8 = 1;
const WANT: u8 = 2;
const ITEMS: u8 = 3;

/// A message of a session, or the answer to one. What it says is checked by who takes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message that was received. Fails when it has more than [`MAX_MESSAGE`] bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, BadMessage> {
        if bytes.len() > MAX_MESSAGE {
            return Err(BadMessage("too long"));
        }
        Ok(Self(bytes))
    }

    /// The bytes to be sent, at most [`MAX_MESSAGE`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} bytes)", self.0.len())
    }
}

/// Bytes that are no message of this protocol, or not one that may come now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("bad message of set reconciliation: {0}")]
pub struct BadMessage(pub(super) &'static str);

/// What starts a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Head {
    /// The first request of a session.
    Hello { nonce: u64, root: [u8; 16] },
    /// A later request.
    Query { nonce: u64 },
    /// An answer to the first so many entries of the request.
    Answer { answered: u32 },
}

/// What a message says of a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// Fingerprints of its 2^bits parts.
    Fingerprints { bits: u32, values: Vec<u32> },
    /// All items of the sender in it.
    Ids(Vec<Id>),
    /// Items that the sender would like to be told in full.
    Want(Vec<Id>),
    /// Items of the sender, ascending, and those of the receiver that the sender lacks.
    Items { items: Vec<Item>, lacks: Vec<Id> },
}

/// One range of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) range: Range,
    pub(super) content: Content,
}

/// Lays out a message. Entries must ascend and not overlap.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    /// Where the range of the last entry ends.
    end: u128,
}

/// A point to which a [`Writer`] can return.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(usize, u128);

impl Writer {
    pub(super) fn new(head: Head) -> Self {
        let mut bytes = vec![VERSION];
        match head {
            Head::Hello { nonce, root } => {
                bytes.push(HELLO);
                bytes.extend_from_slice(&nonce.to_le_bytes());
                bytes.extend_from_slice(&root);
            }
            Head::Query { nonce } => {
                bytes.push(QUERY);
                bytes.extend_from_slice(&nonce.to_le_bytes());
            }
            Head::Answer { answered } => {
                bytes.push(ANSWER);
                bytes.extend_from_slice(&answered.to_le_bytes());
            }
        }
        Self { bytes, end: 0 }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.bytes.len(), self.end)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() > MAX_MESSAGE
    }

    pub(super) fn back_to(&mut self, Mark(len, end): Mark) {
        self.bytes.truncate(len);
        self.end = end;
    }

    pub(super) fn push(&mut self, Entry { range, content }: &Entry) {
        match content {
            Content::Fingerprints { bits, values } => {
                self.head(FINGERPRINTS, range, *bits as usize);
                values.iter().for_each(|value| self.bytes.extend(value.to_le_bytes()));
            }
            Content::Ids(ids) => {
                self.head(IDS, range, ids.len());
                ids.iter().for_each(|id| self.bytes.extend_from_slice(id));
            }
            Content::Want(ids) => {
                self.head(WANT, range, ids.len());
                ids.iter().for_each(|id| self.bytes.extend_from_slice(id));
            }
            Content::Items { items, lacks } => {
                self.head(ITEMS, range, items.len());
                let known = known_bytes(range);
                for item in items {
                    self.bytes.extend_from_slice(&item.key.0[known..]);
                    self.bytes.extend_from_slice(&item.hlc.0.to_le_bytes());
                    self.bytes.extend_from_slice(&item.sum.to_le_bytes());
                }
                self.varint(lacks.len() as u64);
                lacks.iter().for_each(|id| self.bytes.extend_from_slice(id));
            }
        }
    }

    fn head(&mut self, kind: u8, range: &Range, count: usize) {
        let small = u8::try_from(count).map_or(LARGE, |count| count.min(LARGE));
        self.bytes.push(kind << 6 | small);
        self.bytes.push(range.depth as u8);
        let first = self.end.div_ceil(range.width());
        let index = u128::from(range.start) / range.width();
        debug_assert!(first <= index, "ranges ascend");
        self.varint(u64::try_from(index - first).unwrap_or(u64::MAX));
        if small == LARGE {
            self.varint(count as u64);
        }
        self.end = range.end();
    }

    /// Seven bits a byte, least first (LEB128).
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// The message, with the number of entries that it answers if it is an answer.
    pub(super) fn finish(mut self, answered: usize) -> Message {
        if self.bytes.get(1) == Some(&ANSWER) {
            let answered = u32::try_from(answered).unwrap_or(u32::MAX);
            self.bytes[2..6].copy_from_slice(&answered.to_le_bytes());
        }
        Message(self.bytes)
    }
}

/// Whole bytes of a key that its range tells.
fn known_bytes(range: &Range) -> usize {
    range.depth as usize / 8
}

/// Takes a message apart.
pub(super) fn read(message: &Message) -> Result<(Head, Vec<Entry>), BadMessage> {
    let mut reader = Reader { bytes: &message.0, end: 0 };
    if reader.byte()? != VERSION {
        return Err(BadMessage("unknown version"));
    }
    let head = match reader.byte()? {
        HELLO => Head::Hello { nonce: reader.u64()?, root: reader.array()? },
        QUERY => Head::Query { nonce: reader.u64()? },
        ANSWER => Head::Answer { answered: u32::from_le_bytes(reader.array()?) },
        _ => return Err(BadMessage("unknown kind")),
    };
    let mut entries = Vec::new();
    while !reader.bytes.is_empty() {
        entries.push(reader.entry()?);
    }
    Ok((head, entries))
}

struct Reader<'a> {
    bytes: &'a [u8],
    end: u128,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadMessage> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(BadMessage("ends early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, BadMessage> {
        self.array().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Result<u64, BadMessage> {
        self.array().map(u64::from_le_bytes)
    }

    fn varint(&mut self) -> Result<u64, BadMessage> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadMessage("number too large"))
    }

    fn entry(&mut self) -> Result<Entry, BadMessage> {
        let tag = self.byte()?;
        let depth = u32::from(self.byte()?);
        if depth > MAX_DEPTH {
            return Err(BadMessage("no such range"));
        }
        let range = self.range(depth)?;
        let small = tag & LARGE;
        let count = |reader: &mut Self| match small {
            LARGE => reader.varint().map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
            _ => Ok(usize::from(small)),
        };
        let content = match tag >> 6 {
            FINGERPRINTS => {
                let bits = u32::from(small);
                if bits == 0 || bits > super::SPLIT_BITS.1 || depth + bits > MAX_DEPTH {
                    return Err(BadMessage("no such split"));
                }
                let (values, _) = self.take(4 << bits)?.as_chunks();
                let values = values.iter().map(|value| u32::from_le_bytes(*value)).collect();
                Content::Fingerprints { bits, values }
            }
            IDS => {
                let count = count(self)?;
                Content::Ids(self.ids(count)?)
            }
            WANT => {
                let count = count(self)?;
                Content::Want(self.ids(count)?)
            }
            _ => {
                let count = count(self)?;
                let items = self.items(&range, count)?;
                let lacks = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Content::Items { items, lacks: self.ids(lacks)? }
            }
        };
        Ok(Entry { range, content })
    }

    fn range(&mut self, depth: u32) -> Result<Range, BadMessage> {
        let width = Range { start: 0, depth }.width();
        let index = self.end.div_ceil(width) + u128::from(self.varint()?);
        // The greatest index times the greatest width is below 2^128 only when checked.
        let start = index.checked_mul(width).and_then(|start| u64::try_from(start).ok());
        let range = Range { start: start.ok_or(BadMessage("no such range"))?, depth };
        self.end = range.end();
        Ok(range)
    }

    fn ids(&mut self, count: usize) -> Result<Vec<Id>, BadMessage> {
        let len = count.checked_mul(size_of::<Id>()).ok_or(BadMessage("ends early"))?;
        let (ids, _) = self.take(len)?.as_chunks();
        Ok(ids.to_vec())
    }

    fn items(&mut self, range: &Range, count: usize) -> Result<Vec<Item>, BadMessage> {
        let mut items: Vec<Item> = Vec::new();
        let known = known_bytes(range);
        for _ in 0..count {
            let mut key = [0; 32];
            let (prefix, rest) = key.split_at_mut(known);
            prefix.copy_from_slice(&range.start.to_be_bytes()[..known]);
            rest.copy_from_slice(self.take(rest.len())?);
            let key = ActionKey(key);
            if !range.has(&key) || items.last().is_some_and(|last| last.key >= key) {
                return Err(BadMessage("items out of order"));
            }
            items.push(Item { key, hlc: Hlc(self.u64()?), sum: self.u64()? });
        }
        Ok(items)
    }
}
