//! The length-prefixed encoding under everything that is hashed, so that no two different things
//! ever have the same bytes: `E(x)` is the length of `x` as 64-bit little-endian, then `x`.

/// Collects encoded bytes.
#[derive(Debug, Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    /// Appends `E(bytes)`.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Appends the number of items of a list.
    pub(crate) fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&(count as u64).to_le_bytes());
    }

    /// Appends one byte: a tag, a kind or a flag.
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Appends a tag and `E` of what `fill` encodes.
    pub(crate) fn field(&mut self, tag: u8, fill: impl FnOnce(&mut Self)) {
        self.byte(tag);
        let start = self.0.len();
        self.count(0);
        fill(self);
        let len = (self.0.len() - start - size_of::<u64>()) as u64;
        self.0[start..start + size_of::<u64>()].copy_from_slice(&len.to_le_bytes());
    }

    /// What was encoded.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
