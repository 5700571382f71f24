//! Who an agent is: one Ed25519 key, whose public half is the `PeerId`.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use std::{fmt, str::FromStr};

/// Multihash and protobuf header that libp2p puts before an Ed25519 key to make a peer id:
/// identity multihash (0x00), 36 bytes, key type Ed25519 (08 01), 32 bytes of key (12 20).
const LIBP2P_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The Ed25519 public key of an agent, shown in libp2p's base58 form (`12D3KooW...`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 32]);

impl PeerId {
    /// Whether `signature` is this peer's signature over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
        })
    }

    /// The last eight characters of the text form, for messages to people.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len() - 8..].to_owned()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = LIBP2P_PREFIX.to_vec();
        bytes.extend_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

/// A text that is not the peer id of an Ed25519 key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an Ed25519 peer id (12D3KooW...)")]
pub struct ParsePeerIdError(String);

impl FromStr for PeerId {
    type Err = ParsePeerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParsePeerIdError(text.chars().take(80).collect());
        // 38 bytes are at most 53 base58 characters.
        if text.len() > 60 {
            return Err(error());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| error())?;
        let key = bytes.strip_prefix(&LIBP2P_PREFIX).ok_or_else(error)?;
        key.try_into().map(Self).map_err(|_| error())
    }
}

/// The secret half: what `identity.key` holds and what signs records.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// The identity that a 32-byte seed stands for.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, to be kept in a file that only its owner reads.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_libp2ps() {
        let id = Identity::from_seed(&[7; 32]).peer_id();
        let text = id.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(text.parse(), Ok(id));
        assert!("12D3KooW".parse::<PeerId>().is_err());
        assert!("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse::<PeerId>().is_err());
    }

    #[test]
    fn a_signature_binds_key_and_message() {
        let (a, b) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let signature = a.sign(b"m");
        assert!(a.peer_id().verify(b"m", &signature));
        assert!(!a.peer_id().verify(b"n", &signature));
        assert!(!b.peer_id().verify(b"m", &signature));
    }
}
