//! Who is at the other end: TLS 1.3 with raw Ed25519 public keys (RFC 7250), which are the peer ids.
//!
//! Whoever dials puts the peer id that it expects into the server name, so that one verifier serves
//! all dials; rustls resumes a session only under the verifier that it was made with. The name is
//! never sent: it would tell an onlooker who talks to whom.

use netbuild_core::{
    digest::Hash,
    peer::{Identity, PeerId},
};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key},
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
        UnixTime,
    },
    server::{
        AlwaysResolvesServerRawPublicKeys,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use std::{fmt, sync::Arc};

/// Decides which peers may ask this endpoint for something. Called in every handshake and again
/// before every request, so it must be quick, and a peer that is no longer admitted is cut off.
pub type Admits = Arc<dyn Fn(&PeerId) -> bool + Send + Sync>;

/// Names the protocol and its version; a change that old agents cannot read gets a new number.
const ALPN: &[u8] = b"netbuild-data/3";
/// DER of a SubjectPublicKeyInfo up to its 32 bytes of Ed25519 key (RFC 8410).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// DER of a version 1 PKCS#8 private key up to its 32 bytes of Ed25519 seed (RFC 8410).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// Last label of a server name: reserved, so never one that means a host (RFC 2606).
const NAME_SUFFIX: &str = ".invalid";

/// TLS of the side that accepts.
pub(crate) fn server(identity: &Identity, admits: Admits) -> Result<QuicServerConfig, Error> {
    let provider = crypto();
    let key = AlwaysResolvesServerRawPublicKeys::new(own_key(identity, &provider)?);
    let verifier = AdmittedPeers { admits, provider: provider.clone() };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(key));
    config.alpn_protocols = vec![ALPN.to_vec()];
    QuicServerConfig::try_from(config).map_err(|error| Error::General(error.to_string()))
}

/// TLS of the side that dials; the server name of each dial is [`server_name`].
pub(crate) fn client(identity: &Identity) -> Result<QuicClientConfig, Error> {
    let provider = crypto();
    let key = AlwaysResolvesClientRawPublicKeys::new(own_key(identity, &provider)?);
    let verifier = ExpectedPeer { provider: provider.clone() };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(key));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    QuicClientConfig::try_from(config).map_err(|error| Error::General(error.to_string()))
}

/// AES-128-GCM first: a server follows the client's order, and ChaCha20 costs half again as much
/// on processors with AES instructions.
fn crypto() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn own_key(identity: &Identity, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let private = PrivatePkcs8KeyDer::from([&PKCS8_PREFIX[..], &identity.seed()].concat());
    let signer = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(private))?;
    let public = [&SPKI_PREFIX[..], &identity.peer_id().0].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], signer)))
}

/// The peer at the other end of an established connection.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let keys = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    peer_of_key(keys.first()?).ok()
}

fn peer_of_key(key: &CertificateDer<'_>) -> Result<PeerId, Error> {
    key.strip_prefix(&SPKI_PREFIX)
        .and_then(|key| key.try_into().ok())
        .map(PeerId)
        .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// The name under which `peer` is dialled: its key in two labels, as one holds 63 characters.
pub(crate) fn server_name(peer: &PeerId) -> String {
    let mut name = Hash(peer.0).to_string();
    name.insert(32, '.');
    name + NAME_SUFFIX
}

fn peer_of_name(name: &ServerName<'_>) -> Option<PeerId> {
    let ServerName::DnsName(name) = name else {
        return None;
    };
    let (high, low) = name.as_ref().strip_suffix(NAME_SUFFIX)?.split_once('.')?;
    let key: Hash = [high, low].concat().parse().ok()?;
    Some(PeerId(key.0))
}

fn denied() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

fn verify(
    provider: &CryptoProvider,
    message: &[u8],
    key: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature_with_raw_key(
        message,
        &SubjectPublicKeyInfoDer::from(key.as_ref()),
        signed,
        &provider.signature_verification_algorithms,
    )
}

/// Lets in who signs with the key of an admitted peer.
struct AdmittedPeers {
    admits: Admits,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for AdmittedPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdmittedPeers")
    }
}

impl ClientCertVerifier for AdmittedPeers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let peer = peer_of_key(key)?;
        if (self.admits)(&peer) {
            return Ok(ClientCertVerified::assertion());
        }
        tracing::debug!(%peer, "peer is not admitted");
        Err(denied())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(denied())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(&self.provider, message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts exactly the peer that the server name stands for.
#[derive(Debug)]
struct ExpectedPeer {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ExpectedPeer {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if peer_of_name(name) == Some(peer_of_key(key)?) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(denied())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(denied())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(&self.provider, message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_stands_for_one_peer() {
        for byte in [0, 0x99, 0xff] {
            let peer = PeerId([byte; 32]);
            let name = ServerName::try_from(server_name(&peer)).unwrap();
            assert_eq!(peer_of_name(&name), Some(peer));
        }
        for name in ["localhost", "a.invalid", "127.0.0.1", "00.00.invalid"] {
            let name = ServerName::try_from(name).unwrap();
            assert_eq!(peer_of_name(&name), None, "{name:?}");
        }
    }

    #[test]
    fn only_an_ed25519_key_is_a_peer() {
        let key = [&SPKI_PREFIX[..], &[7; 32]].concat();
        assert_eq!(peer_of_key(&CertificateDer::from(key.clone())).unwrap(), PeerId([7; 32]));
        for bad in [&key[..43], &[], &[key.clone(), vec![0]].concat(), &[0; 44]] {
            assert!(peer_of_key(&CertificateDer::from(bad.to_vec())).is_err());
        }
    }
}
