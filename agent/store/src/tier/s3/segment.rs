//! Segments as they lie in the bucket, and how they are made.

use bytes::{Bytes, BytesMut};
use netbuild_core::{
    digest::{Digest, Hash},
    key::ActionKey,
};
use netbuild_proto::{
    record::SealedRecord,
    segment::{Filed, Held, Index, MAX_INDEX},
};
use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

/// The most that a segment is thought to be; larger ones are not ours.
pub(super) const MAX_SEGMENT: u64 = 1 << 30;

/// Bytes that a digest takes in an index, about.
pub(super) const ENTRY: u64 = 45;

/// What the key of a segment says, behind the prefix `seg/`: `TIME-HASH-HEAD`, the time when it was
/// written in seconds, the beginning of the hash of its bytes, and the length of index and records.
///
/// The hash makes writing one twice harmless, the length lets one request read all that is read of
/// most segments.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) head: u64,
}

impl Name {
    fn new(time: u64, hash: Hash, head: u64) -> Self {
        let hash = hash.to_string();
        Self { text: format!("{time:011}-{}-{head}", &hash[..32]), head }
    }

    /// Reads the last part of a key.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split('-');
        let (time, hash, head) = (words.next()?, words.next()?, words.next()?);
        let is_hex = hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if words.next().is_some() || time.parse::<u64>().is_err() || !is_hex {
            return None;
        }
        let head = head.parse().ok().filter(|head| *head <= 2 * MAX_INDEX as u64)?;
        Some(Self { text: text.to_owned(), head })
    }
}

/// A segment that is known by its index.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) name: Name,
    /// Bytes of the whole.
    pub(super) size: u64,
    /// When the server says that it came, in seconds; 0 for one of ours that was not listed yet.
    pub(super) modified: u64,
    pub(super) index: Index,
    /// Where each blob begins, and behind the last.
    blobs: Vec<u64>,
    /// Where each record begins, and behind the last.
    records: Vec<u64>,
}

impl Segment {
    /// Understands an index that takes `len` bytes; `None` when it does not fit the segment.
    pub(super) fn new(
        name: Name,
        size: u64,
        modified: u64,
        index: Index,
        len: usize,
    ) -> Option<Self> {
        let records = ends(len as u64, index.records.iter().map(|filed| u64::from(filed.len)))?;
        let head = *records.last()?;
        let blobs = ends(head, index.blobs.iter().map(|held| held.digest.size))?;
        let fits = head == name.head && blobs.last() == Some(&size);
        fits.then_some(Self { name, size, modified, index, blobs, records })
    }

    /// Where a blob lies.
    pub(super) fn blob(&self, number: usize) -> Range<u64> {
        self.blobs[number]..self.blobs[number + 1]
    }

    /// Where a record lies.
    pub(super) fn record(&self, number: usize) -> Range<u64> {
        self.records[number]..self.records[number + 1]
    }

    /// The records in the first bytes of the segment; those that are not sound, or from a newer
    /// netbuild, are left out.
    pub(super) fn open(&self, head: &[u8]) -> Vec<(usize, SealedRecord)> {
        let numbers = 0..self.index.records.len();
        let records = numbers.filter_map(|number| {
            let at = self.record(number);
            let bytes = head.get(at.start as usize..at.end as usize)?;
            let record = SealedRecord::open(bytes).ok()?;
            let meant = record.record().key == self.index.records[number].key;
            meant.then_some((number, record))
        });
        records.collect()
    }
}

fn ends(from: u64, lens: impl Iterator<Item = u64>) -> Option<Vec<u64>> {
    let mut ends = vec![from];
    let mut end = from;
    for len in lens {
        end = end.checked_add(len)?;
        ends.push(end);
    }
    Some(ends)
}

/// A segment that is being made.
#[derive(Debug, Default)]
pub(super) struct Pack {
    merged: bool,
    blobs: Vec<(Held, Bytes)>,
    here: HashMap<Digest, u32>,
    records: Vec<Packed>,
    filed: HashSet<Hash>,
    bytes: u64,
}

/// A record on its way into a segment.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) key: ActionKey,
    pub(super) hlc: u64,
    pub(super) written: u64,
    /// The sealed record.
    pub(super) bytes: Bytes,
    /// The blobs that its result needs.
    pub(super) blobs: Vec<Digest>,
}

impl Pack {
    /// One that is put together from others.
    pub(super) fn merged() -> Self {
        Self { merged: true, ..Self::default() }
    }

    /// Bytes so far, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.records.is_empty()
    }

    /// Adds a blob; one that is here already is here only once, with the later time.
    pub(super) fn add_blob(&mut self, held: Held, bytes: Bytes) {
        if let Some(at) = self.here.get(&held.digest) {
            let known = &mut self.blobs[*at as usize].0;
            known.written = known.written.max(held.written);
            return;
        }
        self.here.insert(held.digest, self.blobs.len() as u32);
        self.bytes += held.digest.size + ENTRY;
        self.blobs.push((held, bytes));
    }

    /// Adds a record, unless it is here already.
    pub(super) fn add_record(&mut self, record: Packed) {
        if self.filed.insert(Hash::of(&record.bytes)) {
            self.bytes += record.bytes.len() as u64 + ENTRY * (1 + record.blobs.len() as u64);
            self.records.push(record);
        }
    }

    /// What will be known of the segment, and its bytes; `None` when its index would be too long.
    /// `time` is when it is written.
    pub(super) fn finish(self, time: u64) -> Option<(Segment, Vec<Bytes>)> {
        let Self { merged, blobs, here, records, .. } = self;
        let mut index = Index { merged, ..Index::default() };
        let mut named: HashMap<Digest, u32> = HashMap::new();
        index.blobs = blobs.iter().map(|(held, _)| *held).collect();
        let mut heads = BytesMut::new();
        for record in records {
            let numbers = record.blobs.into_iter().map(|blob| {
                here.get(&blob).copied().unwrap_or_else(|| {
                    *named.entry(blob).or_insert_with(|| {
                        index.named.push(blob);
                        (blobs.len() + index.named.len() - 1) as u32
                    })
                })
            });
            let numbers = numbers.collect();
            let Packed { key, hlc, written, bytes, .. } = record;
            let len = bytes.len() as u32;
            heads.extend_from_slice(&bytes);
            index.records.push(Filed { key, hlc, len, written, blobs: numbers });
        }
        let start = Bytes::from(index.encode());
        let len = start.len();
        if len > MAX_INDEX {
            return None;
        }
        // The digests in the index stand for the blobs.
        let hash = Hash::of(&[&start[..], &heads].concat());
        let mut parts = vec![start, heads.freeze()];
        let head = parts.iter().map(|part| part.len() as u64).sum();
        parts.extend(blobs.into_iter().map(|(_, bytes)| bytes));
        parts.retain(|part| !part.is_empty());
        let size = parts.iter().map(|part| part.len() as u64).sum();
        let name = Name::new(time, hash, head);
        Some((Segment::new(name, size, 0, index, len)?, parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_found_again_by_its_name_and_its_first_bytes() {
        let mut pack = Pack::default();
        let blobs = [&b"one"[..], b"", b"three"];
        for blob in blobs {
            let held = Held { digest: Digest::of(blob), written: 5 };
            pack.add_blob(held, Bytes::from_static(blob));
            pack.add_blob(Held { written: 9, ..held }, Bytes::from_static(blob));
        }
        let (segment, parts) = pack.finish(77).unwrap();
        let bytes = parts.concat();
        assert_eq!(bytes.len() as u64, segment.size);
        let name = Name::parse(&segment.name.text).unwrap();
        assert_eq!(name, segment.name);
        let (index, len) = Index::decode(&bytes[..name.head as usize]).unwrap();
        let again = Segment::new(name.clone(), segment.size, 3, index, len).unwrap();
        for (number, blob) in blobs.into_iter().enumerate() {
            let at = again.blob(number);
            assert_eq!(&bytes[at.start as usize..at.end as usize], blob);
            assert_eq!(again.index.blobs[number].written, 9);
        }
        let (index, len) = Index::decode(&bytes).unwrap();
        assert!(Segment::new(name, segment.size + 1, 3, index, len).is_none());
    }

    #[test]
    fn names_of_others_are_no_segments() {
        let hash = "0123456789abcdef0123456789abcdef";
        for text in ["", "1", "a-b-c", &format!("1-{hash}-99999999999"), &format!("1-{hash}-1-1")] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
        assert!(Name::parse(&format!("00000000001-{hash}-100")).is_some());
    }
}
