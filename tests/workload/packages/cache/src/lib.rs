//! Quotes that were worked out before: a least-recently-used cache whose entries also grow old.

mod lru;
mod quotes;

pub use lru::Lru;
pub use quotes::QuoteCache;
