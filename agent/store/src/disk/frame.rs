//! Frames of the journal: how records and small blobs lie in a segment, and how they are found again
//! when bytes between them are damaged.

/// Starts every frame; unlikely in text and in compressed data.
const MAGIC: [u8; 4] = [0xf1, b'n', b'b', 0x1a];
/// Magic, kind, length of the payload, CRC-32C of kind, length and payload.
pub(super) const HEADER: usize = 4 + 1 + 4 + 4;
/// Most bytes of a payload: room for the largest record and to spare, and little enough to be checked
/// at every place where a damaged segment might go on.
pub(super) const MAX_PAYLOAD: usize = 512 * 1024;
/// Bytes that are enough to see a frame whole and the one behind it, from any place in the first.
pub(super) const OVERLAP: usize = 2 * (HEADER + MAX_PAYLOAD);

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Record = 1,
    Blob = 2,
    /// A record that lost against another result for its action.
    Evidence = 3,
    /// What was removed: of all frames of that name, those before this one count no more.
    Gone = 4,
}

/// One intact frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
}

/// Lays out a frame whose payload is `head` followed by `body`, together at most [`MAX_PAYLOAD`].
pub(super) fn encode(kind: Kind, head: &[u8], body: &[u8]) -> Vec<u8> {
    let len = head.len() + body.len();
    debug_assert!(len <= MAX_PAYLOAD);
    let mut frame = Vec::with_capacity(HEADER + len);
    frame.extend_from_slice(&MAGIC);
    frame.push(kind as u8);
    frame.extend_from_slice(&(len as u32).to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(head);
    frame.extend_from_slice(body);
    let crc = checksum(&frame);
    frame[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// The frame at the start of `bytes`, if there is one and it is intact.
pub(super) fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let len = plausible_len(bytes)?;
    let frame = bytes.get(..HEADER + len)?;
    let kind = match frame[4] {
        1 => Kind::Record,
        2 => Kind::Blob,
        3 => Kind::Evidence,
        4 => Kind::Gone,
        _ => return None,
    };
    let crc = frame[HEADER - 4..HEADER].try_into().ok()?;
    (checksum(frame) == u32::from_le_bytes(crc))
        .then_some(Frame { kind, payload: &frame[HEADER..] })
}

/// Whether this is the header of a frame of a kind and with a payload of `len` bytes.
pub(super) fn is_header(header: &[u8; HEADER], kind: Kind, len: u32) -> bool {
    header[4] == kind as u8 && plausible_len(header) == Some(len as usize)
}

/// Length of the payload that a header at the start of `bytes` states.
fn plausible_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER)?;
    let len = u32::from_le_bytes(header[5..9].try_into().ok()?) as usize;
    (header.starts_with(&MAGIC) && len <= MAX_PAYLOAD).then_some(len)
}

fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[4..9]), &frame[HEADER..])
}

/// How a scan went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Scanned {
    /// End of the last intact frame.
    pub(super) end: usize,
    /// Where the scan of what follows goes on; when all was scanned, what lies between `end` and
    /// here is a torn tail.
    pub(super) next: usize,
    /// Damaged stretches that were followed by an intact frame.
    pub(super) damaged: u64,
}

/// Visits every intact frame that starts before `limit` with its offset, skipping damaged
/// stretches. Behind `limit` there must be [`OVERLAP`] bytes more, or nothing but what is in `bytes`.
pub(super) fn scan(bytes: &[u8], limit: usize, mut visit: impl FnMut(usize, Frame<'_>)) -> Scanned {
    let mut scanned = Scanned::default();
    while scanned.next < limit {
        if let Some(frame) = parse(&bytes[scanned.next..]) {
            visit(scanned.next, frame);
            scanned.next += HEADER + frame.payload.len();
            scanned.end = scanned.next;
            continue;
        }
        match resume(bytes, scanned.next) {
            Some(next) => {
                scanned.next = next;
                scanned.damaged += 1;
            }
            None => scanned.next = limit.max(scanned.next),
        }
    }
    scanned
}

/// Where the next intact frame starts after a damaged one at `at`.
///
/// The stated length is believed when an intact frame follows it: a blob may hold bytes that look like
/// frames, and those must not be taken for entries of the journal.
fn resume(bytes: &[u8], at: usize) -> Option<usize> {
    if let Some(len) = plausible_len(&bytes[at..]) {
        let next = at + HEADER + len;
        if bytes.get(next..).and_then(parse).is_some() {
            return Some(next);
        }
    }
    let mut from = at + 1;
    while let Some(rest) = bytes.get(from..) {
        from += rest.windows(MAGIC.len()).position(|w| w == MAGIC)?;
        if parse(&bytes[from..]).is_some() {
            return Some(from);
        }
        from += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(payloads: &[Vec<u8>]) -> Vec<u8> {
        let frames = payloads.iter().map(|body| encode(Kind::Blob, b"head", body));
        frames.collect::<Vec<_>>().concat()
    }

    fn found(bytes: &[u8]) -> (Vec<Vec<u8>>, Scanned) {
        let mut payloads = Vec::new();
        let scanned =
            scan(bytes, bytes.len(), |_, frame| payloads.push(frame.payload[4..].to_vec()));
        (payloads, scanned)
    }

    #[test]
    fn any_flipped_bit_costs_one_frame_and_no_other() {
        let payloads = [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()];
        let good = segment(&payloads);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let hit = [HEADER + 9, 2 * HEADER + 19].iter().filter(|end| bit / 8 >= **end).count();
            let mut expected = payloads.to_vec();
            expected.remove(hit);
            assert_eq!(found(&bytes).0, expected, "bit {bit}");
        }
    }

    #[test]
    fn bytes_of_a_damaged_blob_that_look_like_frames_are_not_entries() {
        let inner = encode(Kind::Record, b"", b"forged");
        let mut bytes = segment(&[inner, b"next".to_vec()]);
        bytes[HEADER] ^= 1;
        assert_eq!(found(&bytes).0, [b"next".to_vec()]);
    }

    proptest! {
        #[test]
        fn a_cut_segment_keeps_every_whole_frame(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..6), cut: prop::sample::Index
        ) {
            let good = segment(&payloads);
            let bytes = &good[..cut.index(good.len() + 1)];
            let (kept, scanned) = found(bytes);
            prop_assert_eq!(&payloads[..kept.len()], &kept[..]);
            prop_assert_eq!((scanned.end, scanned.damaged), (segment(&kept).len(), 0));
            prop_assert!(kept.len() == payloads.len() || bytes.len() < segment(&payloads[..=kept.len()]).len());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![Just(0xf1u8), Just(b'n'), Just(b'b'), Just(0x1a), any::<u8>()], 0..400)) {
            let _ = found(&bytes);
        }
    }
}
