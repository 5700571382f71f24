//! Changes to a valid message, of the kinds that decoders trip over.

use crate::generate::Random;

/// Most bytes of an input; what is longer is cut.
const MAX_INPUT: usize = 64 * 1024;
/// Bytes with a meaning: ends of ranges, signs, and the markers of bincode's variable-length
/// numbers of 16, 32, 64 and 128 bits.
const TELLING: [u8; 12] = [0, 1, 0x1f, 0x3f, 0x40, 0x7f, 0x80, 0xfb, 0xfc, 0xfd, 0xfe, 0xff];

/// One change at random; `other` makes another valid message to take a part from.
pub(crate) fn once(
    random: &mut Random,
    mut input: Vec<u8>,
    other: impl FnOnce(&mut Random) -> Vec<u8>,
) -> Vec<u8> {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(16)).min(input.len());
    match random.below(11) {
        0 => set(&mut input, at, |byte| byte ^ (1 << random.below(8))),
        1 => set(&mut input, at, |_| random.byte()),
        2 => set(&mut input, at, |_| TELLING[random.below(TELLING.len())]),
        3 => set(&mut input, at, |byte| byte.wrapping_add(1)),
        4 => input.truncate(at),
        5 => drop(input.drain(at..end)),
        6 => {
            let twice = input[at..end].to_vec();
            input.splice(at..at, twice.iter().copied().cycle().take(twice.len() * 8));
        }
        7 => drop(input.splice(at..end, huge(random))),
        8 => drop(input.splice(at..at, huge(random))),
        9 => {
            let other = other(random);
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            let count = random.below(64);
            input.extend((0..count).map(|_| random.byte()));
        }
    }
    input.truncate(MAX_INPUT);
    input
}

fn set(input: &mut [u8], at: usize, to: impl FnOnce(u8) -> u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte = to(*byte);
    }
}

/// A number that is larger than anything, in one of the encodings that are in use: bincode's,
/// LEB128, and four bytes in either order.
fn huge(random: &mut Random) -> Vec<u8> {
    let lengths = [0xffff, 0x1_0000, 0x7fff_ffff, u64::from(u32::MAX), u64::MAX, 1 << 40, 1 << 20];
    let length = lengths[random.below(lengths.len())];
    match random.below(5) {
        0 => [&[0xfb][..], &(length as u16).to_le_bytes()].concat(),
        1 => [&[0xfc][..], &(length as u32).to_le_bytes()].concat(),
        2 => [&[0xfd][..], &length.to_le_bytes()].concat(),
        3 => vec![0xff; 1 + random.below(11)],
        _ => (length as u32).to_be_bytes().to_vec(),
    }
}
