//! The cache of quotes: orders for the same lines share one, whoever sends them.

use crate::Lru;
use models::{Line, Order, Quote, Refusal};
use std::time::Duration;

/// Quotes by the lines that they are for.
#[derive(Debug)]
pub struct QuoteCache {
    quotes: Lru<Vec<Line>, Quote>,
    hits: u64,
}

impl QuoteCache {
    /// An empty cache; see [`Lru::new`].
    pub fn new(capacity: usize, time_to_live: Duration) -> QuoteCache {
        QuoteCache { quotes: Lru::new(capacity, time_to_live), hits: 0 }
    }

    /// How many quotes were not worked out again.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// The quote for an order. A refusal is not remembered: the next price list may lift it.
    pub fn quote(&mut self, order: &Order, now: Duration) -> Result<Quote, Refusal> {
        if let Some(quote) = self.quotes.get(&order.lines, now) {
            self.hits += 1;
            return Ok(quote.clone());
        }
        let quote = Quote::for_order(order)?;
        self.quotes.put(order.lines.clone(), quote.clone(), now);
        Ok(quote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::Samples;

    #[test]
    fn equal_lines_are_worked_out_once() {
        let mut cache = QuoteCache::new(10, Duration::from_secs(1));
        let first = Samples::new(1).next().unwrap();
        let second = Order { id: 99, customer: "somebody else".to_owned(), ..first.clone() };
        let quote = cache.quote(&first, Duration::ZERO);
        assert_eq!(cache.quote(&second, Duration::ZERO), quote);
        assert_eq!(cache.hits(), 1);
    }

    #[test]
    fn a_cached_quote_is_the_quote() {
        let mut cache = QuoteCache::new(32, Duration::from_secs(1));
        for order in Samples::new(5).take(2_000) {
            let quote = cache.quote(&order, Duration::ZERO);
            assert_eq!(quote, Quote::for_order(&order));
        }
        assert!(cache.hits() > 0);
    }

    #[test]
    fn refusals_are_not_cached() {
        let mut cache = QuoteCache::new(10, Duration::from_secs(1));
        let order = Order { id: 1, customer: "Ada".to_owned(), lines: Vec::new() };
        for _ in 0..2 {
            assert_eq!(cache.quote(&order, Duration::ZERO), Err(Refusal::Empty));
        }
        assert_eq!(cache.hits(), 0);
    }
}
