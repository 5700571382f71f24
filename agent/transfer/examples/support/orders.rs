//! Chunks in orders, as a caller of the data plane makes them.

use netbuild_core::chunk::Chunk;
use netbuild_transfer::Order;

/// Chunks in one order, as many small ones as make one run.
const MOST: usize = 512;
/// Their bytes: a few runs, so that what is learned of the link soon counts.
const MOST_BYTES: u64 = 8 << 20;

/// Orders for all these chunks.
pub(crate) fn orders(chunks: &[Chunk]) -> impl FnMut() -> Option<Order> {
    let mut left = chunks;
    move || {
        let mut bytes = 0;
        let fits = left.iter().take(MOST).take_while(|chunk| {
            bytes += u64::from(chunk.len);
            bytes <= MOST_BYTES
        });
        let (these, rest) = left.split_at(fits.count());
        left = rest;
        (!these.is_empty()).then(|| Order::Chunks(these.to_vec()))
    }
}
