//! Randomness for decisions that are better not all made alike.

/// A number from 0 to 1. Without a source of randomness, the middle: nothing depends on it.
pub(crate) fn unit() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

/// A number that nobody can foresee; 0 without a source of randomness.
pub(crate) fn nonce() -> u64 {
    getrandom::u64().unwrap_or_default()
}
