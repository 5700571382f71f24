//! Names of bytes: a BLAKE3 hash, and the digest that adds the size.

use std::{fmt, str::FromStr};

/// A BLAKE3-256 hash, shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Hashes bytes that are already in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for messages to people.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// Why a text is not a hash or a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// The hash part is not 64 hexadecimal digits.
    #[error("`{0}` is not a hash of 64 hexadecimal digits")]
    Hash(String),
    /// There is no `/SIZE` after the hash, or it is not a number of bytes.
    #[error("`{0}` is not a digest of the form HASH/SIZE")]
    Size(String),
}

impl FromStr for Hash {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDigestError::Hash(text.to_owned());
        if text.len() != 64 {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let high = (pair[0] as char).to_digit(16).ok_or_else(error)?;
            let low = (pair[1] as char).to_digit(16).ok_or_else(error)?;
            *byte = (high * 16 + low) as u8;
        }
        Ok(Self(bytes))
    }
}

/// Hash and size of a blob: its name everywhere in the mesh. Shown as `HASH/SIZE`, size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    /// BLAKE3 of the bytes.
    pub hash: Hash,
    /// Length in bytes.
    pub size: u64,
}

impl Digest {
    /// The digest of bytes that are already in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: Hash::of(bytes), size: bytes.len() as u64 }
    }

    /// Whether `bytes` are the bytes that this digest names.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.size == bytes.len() as u64 && self.hash == Hash::of(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hash, self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDigestError::Size(text.to_owned());
        let (hash, size) = text.split_once('/').ok_or_else(error)?;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        Ok(Self { hash: hash.parse()?, size: size.parse().map_err(|_| error())? })
    }
}

/// Digests bytes that arrive in pieces.
#[derive(Debug, Clone, Default)]
pub struct DigestBuilder {
    hasher: blake3::Hasher,
}

impl DigestBuilder {
    /// A builder that has seen no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Bytes seen so far.
    pub fn size(&self) -> u64 {
        self.hasher.count()
    }

    /// The digest of all pieces in their order.
    pub fn finish(&self) -> Digest {
        Digest { hash: Hash(*self.hasher.finalize().as_bytes()), size: self.hasher.count() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_blob_has_the_published_blake3_name() {
        assert_eq!(
            Digest::of(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262/0"
        );
    }

    #[test]
    fn text_and_digest_are_one_to_one() {
        let digest = Digest::of(b"hello");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in ["", "/", "ab/1", &format!("{}/", digest.hash), &format!("{}/+1", digest.hash)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
        assert!("é".repeat(32).parse::<Hash>().is_err());
    }

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let mut builder = DigestBuilder::new();
        builder.update(b"hel");
        builder.update(b"lo");
        assert_eq!(builder.finish(), Digest::of(b"hello"));
    }
}
