//! Proof that a peer knows the mesh key.
//!
//! The proof names both ends, and the QUIC handshake below has already shown that both hold the keys
//! of their peer ids. So it is worth nothing to anyone but its maker, and needs no nonce: whoever
//! records it cannot send it under the maker's identity.

use netbuild_core::peer::PeerId;
use netbuild_proto::ticket::MeshKey;

/// Tells the key of the proofs apart from every other use of the mesh key.
const CONTEXT: &str = "netbuild 2026-11 admission v1";

/// Makes and checks proofs under one mesh key.
pub(crate) struct Prover([u8; 32]);

impl Prover {
    pub(crate) fn new(mesh_key: &MeshKey) -> Self {
        Self(blake3::derive_key(CONTEXT, &mesh_key.0))
    }

    /// What `prover` shows to `verifier`.
    pub(crate) fn prove(&self, prover: &PeerId, verifier: &PeerId) -> [u8; 32] {
        self.hash(prover, verifier).into()
    }

    /// Whether `proof` was made by `prover` for `verifier`, in time that does not depend on where
    /// it differs.
    pub(crate) fn verify(&self, proof: &[u8; 32], prover: &PeerId, verifier: &PeerId) -> bool {
        self.hash(prover, verifier) == blake3::Hash::from_bytes(*proof)
    }

    fn hash(&self, prover: &PeerId, verifier: &PeerId) -> blake3::Hash {
        let mut both = [0; 64];
        both[..32].copy_from_slice(&prover.0);
        both[32..].copy_from_slice(&verifier.0);
        blake3::keyed_hash(&self.0, &both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_for_one_key_and_one_direction() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let prover = Prover::new(&MeshKey([3; 32]));
        let proof = prover.prove(&a, &b);
        assert!(prover.verify(&proof, &a, &b));
        assert!(!prover.verify(&proof, &b, &a));
        assert!(!prover.verify(&proof, &a, &PeerId([4; 32])));
        assert!(!Prover::new(&MeshKey([5; 32])).verify(&proof, &a, &b));
    }
}
