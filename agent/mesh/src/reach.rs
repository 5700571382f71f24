//! Whether the mesh port of a member can be reached, for somebody who looks for what is wrong.

use crate::border;
use libp2p::{
    Transport as _,
    core::{
        Endpoint,
        transport::{DialOpts, PortUse},
    },
    quic,
};
use netbuild_core::peer::{Identity, PeerId};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// Shakes hands at an address, says nothing more, and tells how long it took. `peer` is who must
/// answer; `None` for anybody.
///
/// # Errors
/// Why not, in words.
pub async fn reach(
    address: SocketAddr,
    peer: Option<PeerId>,
    identity: &Identity,
    limit: Duration,
) -> Result<Duration, String> {
    let keypair = border::keypair(identity).map_err(|error| error.to_string())?;
    let mut config = quic::Config::new(&keypair);
    config.handshake_timeout = limit;
    let mut transport = quic::tokio::Transport::new(config);
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let began = Instant::now();
    let dial = transport
        .dial(border::to_multiaddr(address), options)
        .map_err(|error| error.to_string())?;
    match timeout(limit, dial).await {
        Ok(Ok((answers, _))) => match (border::from_libp2p(&answers), peer) {
            (Some(found), Some(wanted)) if found != wanted => {
                Err(format!("another agent answers, {found}"))
            }
            _ => Ok(began.elapsed()),
        },
        Ok(Err(quic::Error::HandshakeTimedOut)) | Err(_) => {
            Err(format!("no answer within {:.1} s", limit.as_secs_f64()))
        }
        Ok(Err(error)) => Err(error.to_string()),
    }
}
