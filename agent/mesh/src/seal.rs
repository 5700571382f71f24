//! Sealing of gossip, so that only holders of the mesh key read or write it.
//!
//! A rumour names its origin and is passed on by others; the seal shows that the origin knows the mesh
//! key, which its signature alone does not. Layout: nonce (24 bytes), then XChaCha20-Poly1305 of the
//! announcement with the sender's peer id as associated data.

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead as _, KeyInit as _, Payload},
};
use netbuild_core::peer::PeerId;
use netbuild_proto::ticket::MeshKey;

/// Bytes of the nonce: long enough to be drawn at random by every member under one key.
pub(crate) const NONCE: usize = 24;

/// Tells the key of gossip apart from every other use of the mesh key.
const CONTEXT: &str = "netbuild 2026-11 gossip v1";

/// Seals and opens gossip under one mesh key.
pub(crate) struct Seal(XChaCha20Poly1305);

impl Seal {
    pub(crate) fn new(mesh_key: &MeshKey) -> Self {
        let key = blake3::derive_key(CONTEXT, &mesh_key.0);
        Self(XChaCha20Poly1305::new(&key.into()))
    }

    /// Seals `message` as said by `sender`. The nonce must be fresh from the system's randomness.
    /// `None` for messages far longer than any announcement.
    pub(crate) fn seal(
        &self,
        sender: &PeerId,
        nonce: [u8; NONCE],
        message: &[u8],
    ) -> Option<Vec<u8>> {
        let payload = Payload { msg: message, aad: &sender.0 };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// What `sender` sealed; `None` when it was another, another key, or the bytes were changed.
    pub(crate) fn open(&self, sender: &PeerId, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, message) = sealed.split_first_chunk::<NONCE>()?;
        let payload = Payload { msg: message, aad: &sender.0 };
        self.0.decrypt(&XNonce::from(*nonce), payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_same_key_and_sender_open_it() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let seal = Seal::new(&MeshKey([3; 32]));
        let sealed = seal.seal(&a, [7; NONCE], b"held").unwrap();
        assert_eq!(seal.open(&a, &sealed).unwrap(), b"held");
        assert_eq!(seal.open(&b, &sealed), None);
        assert_eq!(Seal::new(&MeshKey([4; 32])).open(&a, &sealed), None);
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed(at in 0usize..44, flip in 1u8..) {
            let a = PeerId([1; 32]);
            let seal = Seal::new(&MeshKey([3; 32]));
            let mut sealed = seal.seal(&a, [7; NONCE], b"held").unwrap();
            sealed[at] ^= flip;
            prop_assert_eq!(seal.open(&a, &sealed), None);
        }

        #[test]
        fn hostile_bytes_never_open(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let seal = Seal::new(&MeshKey([3; 32]));
            prop_assert_eq!(seal.open(&PeerId([1; 32]), &bytes), None);
        }
    }
}
