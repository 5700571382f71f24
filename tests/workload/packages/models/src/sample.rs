//! Orders made up from a seed, for tests and self-tests: the same seed gives the same orders.

use crate::{Line, Order};
use settings::price_list::PRODUCTS;

const CUSTOMERS: [&str; 4] = ["Ada", "Grace", "Edsger", "Barbara"];

/// An endless supply of good orders.
#[derive(Clone, Debug)]
pub struct Samples {
    state: u64,
    next_id: u32,
}

impl Samples {
    /// Orders that depend on the seed and on nothing else.
    pub fn new(seed: u64) -> Samples {
        // The generator below would stay at zero for ever.
        Samples { state: seed.max(1), next_id: 1 }
    }

    /// A number below `bound`: xorshift64, good enough to choose samples.
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % bound as u64) as usize
    }
}

impl Iterator for Samples {
    type Item = Order;

    fn next(&mut self) -> Option<Order> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let customer = CUSTOMERS[self.below(CUSTOMERS.len())].to_owned();
        let lines = (0..=self.below(3))
            .map(|_| Line {
                sku: PRODUCTS[self.below(PRODUCTS.len())].0.to_owned(),
                quantity: self.below(12) as u32 + 1,
            })
            .collect();
        Some(Order { id, customer, lines })
    }
}

/// FNV-1a of the bytes, continued from an earlier one: a short name for a lot of output.
pub fn fingerprint(before: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(before ^ 0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_its_orders() {
        let orders = |seed| Samples::new(seed).take(50).collect::<Vec<_>>();
        assert_eq!(orders(3), orders(3));
        assert_ne!(orders(3), orders(4));
        assert!(orders(0).iter().all(|order| order.check().is_ok()));
    }

    #[test]
    fn the_fingerprint_is_the_published_fnv_1a() {
        assert_eq!(fingerprint(0, b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(0, b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
