//! Every decoder that sees bytes of others, with bytes that are nearly right.
//!
//! Valid messages are changed at random, which leads deeper into a decoder than random bytes do.
//! Whatever comes, a decoder must not panic, must not allocate out of proportion to what came, and
//! must read back what it accepted once that is encoded again.
//!
//! `NETBUILD_FUZZ_CASES` sets how many inputs each decoder gets, `NETBUILD_FUZZ_SEED` where they
//! begin; a failure tells the seed and the input.

#![expect(clippy::print_stdout, reason = "the seed is told, to try again with it")]

mod allocation;
mod generate;
mod mutate;

use generate::Random;
use netbuild_core::reconcile::{MAX_DIFFERENCE, Message, Step, respond};
use netbuild_proto::{
    control, data, exchange, gossip, listing, log, membership, record::SealedRecord, segment,
    ticket::Ticket,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{SystemTime, UNIX_EPOCH},
};

/// Inputs for each decoder when nobody asks for more: a second for the slowest.
const CASES: u64 = 1_000;
/// Bytes in memory for each byte that came: no element of a message takes more.
const SWELL: usize = 64;
/// Bytes that any decoder may take for an answer or an error.
const SLACK: usize = 16 * 1024;

/// A decoder under attack.
struct Target {
    name: &'static str,
    /// A valid input.
    valid: fn(&mut Random) -> Vec<u8>,
    /// Decodes, and checks what was accepted; says whether it was.
    decode: fn(&[u8]) -> bool,
    /// Most bytes that decoding may hold at once, however few came: what the limit of the codec
    /// lets a length field promise.
    most: usize,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn attack(target: &Target) {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = number("NETBUILD_FUZZ_SEED").unwrap_or(clock.as_nanos() as u64);
    let cases = number("NETBUILD_FUZZ_CASES").unwrap_or(CASES);
    println!("{}: NETBUILD_FUZZ_SEED={seed} NETBUILD_FUZZ_CASES={cases}", target.name);
    let mut random = Random::new(seed);
    let (mut accepted, mut highest) = (0_u64, 0);
    for case in 0..cases {
        let mut input = (target.valid)(&mut random);
        if case % 16 == 0 {
            assert!((target.decode)(&input), "{}: refused {}", target.name, show(&input));
        }
        for _ in 0..1 + random.below(4) {
            let other = |random: &mut Random| (target.valid)(random);
            input = mutate::once(&mut random, input, other);
        }
        let measured = AssertUnwindSafe(|| allocation::peak(|| (target.decode)(&input)));
        let Ok((fine, peak)) = catch_unwind(measured) else {
            panic!("{}: seed {seed}, case {case}: {}", target.name, show(&input));
        };
        // Checking what was accepted encodes and decodes it once more.
        let bound = 2 * (target.most + SWELL * input.len()) + SLACK;
        assert!(peak <= bound, "{}: {peak} bytes of memory for {}", target.name, show(&input));
        accepted += u64::from(fine);
        highest = highest.max(peak);
    }
    println!("{}: {accepted} of {cases} accepted, {highest} bytes at most", target.name);
}

fn show(input: &[u8]) -> String {
    let hex: String = input.iter().take(2_000).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes: {hex}", input.len())
}

/// Decodes twice: what was accepted must be the same after it was encoded again, within `limit`.
fn reads_back<T: PartialEq + std::fmt::Debug, E: std::fmt::Debug>(
    input: &[u8],
    limit: usize,
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> bool {
    let Ok(read) = decode(input) else { return false };
    let bytes = encode(&read);
    assert!(bytes.len() <= limit, "{} bytes", bytes.len());
    assert_eq!(decode(&bytes).expect("what was encoded is decoded"), read);
    true
}

macro_rules! targets {
    ($($name:ident: $valid:ident, $most:expr, $decode:expr;)*) => {$(
        #[test]
        fn $name() {
            let target =
                Target { name: stringify!($name), valid: generate::$valid, decode: $decode, most: $most };
            attack(&target);
        }
    )*};
}

targets! {
    announcement: announcement, membership::MAX_GOSSIP, |input| {
        let limit = membership::MAX_GOSSIP;
        reads_back(input, limit, membership::Announcement::decode, membership::Announcement::encode)
    };
    membership_request: membership_request, membership::MAX_MESSAGE, |input| {
        let limit = membership::MAX_MESSAGE;
        reads_back(input, limit, membership::Request::decode, membership::Request::encode)
    };
    membership_response: membership_response, membership::MAX_MESSAGE, |input| {
        let limit = membership::MAX_MESSAGE;
        reads_back(input, limit, membership::Response::decode, membership::Response::encode)
    };
    gossip_message: gossip_message, 0, |input| {
        let encode = |message: &_| gossip::encode(message).expect("it is within its bounds");
        reads_back(input, netbuild_core::gossip::MAX_MESSAGE, gossip::decode, encode)
    };
    gossip_envelope: envelope, 0, |input| {
        let limit = netbuild_core::gossip::MAX_BODY;
        reads_back(input, limit, gossip::Envelope::decode, gossip::Envelope::encode)
    };
    exchange_request: exchange_request, exchange::MAX_EXCHANGE, |input| {
        let limit = exchange::MAX_EXCHANGE;
        reads_back(input, limit, exchange::Request::decode, exchange::Request::encode)
    };
    exchange_response: exchange_response, exchange::MAX_EXCHANGE, |input| {
        let limit = exchange::MAX_EXCHANGE;
        reads_back(input, limit, exchange::Response::decode, exchange::Response::encode)
    };
    reconcile_question: reconcile_question, 4 * netbuild_core::reconcile::MAX_MESSAGE, is_answered;
    reconcile_answer: reconcile_answer, 4 * netbuild_core::reconcile::MAX_MESSAGE, is_heard;
    data_request: data_request, data::MAX_REQUEST, |input| {
        reads_back(input, data::MAX_REQUEST, data::Request::decode, data::Request::encode)
    };
    data_manifest: manifest, 0, |input| {
        let decode = |bytes: &[u8]| data::decode_manifest(generate::BLOB, bytes);
        let encode = |told: &data::Described| {
            data::encode_manifest(&told.manifest, told.sketch.as_deref())
        };
        reads_back(input, data::MAX_MANIFEST, decode, encode)
    };
    data_run: run, 0, |input| {
        // The frame's length says how long the body is, and no header can make it mean more.
        let Some((header, body)) = input.split_first_chunk::<{ data::RUN_HEADER }>() else { return false };
        let decode = |header: &[u8]| {
            let header = header.try_into().expect("as long as it was");
            data::RunHeader::decode(header, body.len(), &generate::ASKED)
        };
        if let Ok(run) = decode(header) {
            let asked = &generate::ASKED[..usize::from(run.count)];
            let sum: u64 = asked.iter().map(|chunk| u64::from(chunk.len)).sum();
            assert!(body.len() as u64 <= u64::from(run.decoded) && u64::from(run.decoded) <= sum);
        }
        reads_back(header, data::RUN_HEADER, decode, |run| run.encode().to_vec())
    };
    data_bitmap: bitmap, 0, |input| {
        let Some((count, bytes)) = input.split_first() else { return false };
        let decode = |bytes: &[u8]| data::decode_bitmap(usize::from(*count), bytes);
        reads_back(bytes, data::MAX_BITMAP, decode, |bits| data::encode_bitmap(bits))
    };
    record: record, netbuild_proto::record::MAX_RECORD, |input| {
        // Mostly not genuine any more; what a genuine one of a liar would be is read all the same.
        let genuine = SealedRecord::open(input).is_ok();
        let Ok(read) = SealedRecord::reopen(input) else { return genuine };
        let inside = |path: &[u8]| !path.split(|byte| *byte == b'/').any(|name| name == b"..");
        let outputs = &read.record().result.outputs;
        assert!(outputs.iter().all(|output| inside(&output.path) && output.path[0] != b'/'));
        read.as_bytes() == input
    };
    directory_listing: listing, 0, |input| {
        reads_back(input, listing::MAX_LISTING, listing::decode, |entries| listing::encode(entries))
    };
    segment_index: segment_index, segment::MAX_INDEX, |input| {
        let mut framed = b"nbseg\0\0\x01".to_vec();
        framed.extend((input.len() as u32).to_le_bytes());
        framed.extend(input);
        framed.extend(netbuild_core::digest::Hash::of(&framed).0);
        let limit = segment::MAX_INDEX;
        let decode = |bytes: &[u8]| segment::Index::decode(bytes).map(|(index, _)| index);
        reads_back(&framed, limit, decode, segment::Index::encode)
    };
    log_frames: log, 0, |input| {
        let Ok(frames) = log::frames(input) else { return false };
        frames.iter().map(|frame| frame.bytes.len()).sum::<usize>() <= input.len()
    };
    join_ticket: ticket, 0, |input| {
        let decode = |bytes: &[u8]| String::from_utf8_lossy(bytes).parse::<Ticket>();
        reads_back(input, 2048, decode, |ticket| ticket.to_string().into_bytes())
    };
    control_request: control_request, CONTROL, |input| {
        let read = control::Request::read(&mut &*input);
        let Ok(Some(request)) = read else { return false };
        let mut bytes = Vec::new();
        request.write(&mut bytes).expect("memory takes it");
        control::Request::read(&mut bytes.as_slice()).is_ok_and(|again| again == Some(request))
    };
    control_response: control_response, CONTROL, |input| {
        let Ok(response) = control::Response::read(&mut &*input) else { return false };
        let mut bytes = Vec::new();
        response.write(&mut bytes).expect("memory takes it");
        // Bytes, not values: a number that is none is not equal to itself.
        let again = control::Response::read(&mut bytes.as_slice()).expect("it reads back");
        let mut twice = Vec::new();
        again.write(&mut twice).expect("memory takes it");
        bytes == twice
    };
    control_content: content, 2 * control::MAX_DATA, |input| {
        let mut content = control::ContentReader::new(input);
        std::io::copy(&mut content, &mut std::io::sink()).is_ok()
    };
}

/// Most bytes that the frame of the control socket and what is in it may promise.
const CONTROL: usize = 8 * 1024 * 1024;

/// A question of set reconciliation, to an agent with some records.
fn is_answered(input: &[u8]) -> bool {
    let Ok(question) = Message::from_bytes(input.to_vec()) else { return false };
    let Ok(answer) = respond(&generate::THEIRS, &question) else { return false };
    assert!(answer.as_bytes().len() <= netbuild_core::reconcile::MAX_MESSAGE);
    true
}

/// An answer of set reconciliation, in some round of a session with an agent that was honest before.
fn is_heard(input: &[u8]) -> bool {
    let Some((round, answer)) = input.split_first() else { return false };
    let Ok(answer) = Message::from_bytes(answer.to_vec()) else { return false };
    let rounds = &generate::ROUNDS;
    let mut session = rounds[usize::from(*round) % rounds.len()].session.clone();
    match session.handle(&generate::OURS, &answer) {
        Ok(Step::Send(next)) => {
            assert!(next.as_bytes().len() <= netbuild_core::reconcile::MAX_MESSAGE);
            true
        }
        Ok(Step::Done(found)) => found.theirs.len().max(found.ours.len()) <= MAX_DIFFERENCE,
        Err(_) => false,
    }
}
