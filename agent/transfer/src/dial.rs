//! Opening a connection to a holder, over whichever of its addresses answers first.

use crate::{auth, error::FetchError, links::Quic, socket::dialled_transport};
use futures::{StreamExt, stream::FuturesUnordered};
use netbuild_core::peer::PeerId;
use quinn::Connection;
use std::{fmt::Display, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// Longest time for one address to answer: several round trips around the world.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Head start of each address over the next: a near peer has answered by then.
const HEAD_START: Duration = Duration::from_millis(200);
/// Most addresses that are tried; more would only prolong a failure.
const MAX_ADDRESSES: usize = 8;

/// A peer that holds something, and where its data plane is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Who it must be.
    pub peer: PeerId,
    /// UDP addresses of its data plane, the likeliest first; at most eight are tried.
    pub addresses: Vec<SocketAddr>,
}

/// Connects to `holder`. The peer's key is verified; whether the peer admits us shows only in its
/// first answer.
pub(crate) async fn dial(quic: &Quic, holder: &Holder) -> Result<Connection, FetchError> {
    let peer = holder.peer;
    let mut attempts: FuturesUnordered<_> = (0..)
        .zip(holder.addresses.iter().take(MAX_ADDRESSES))
        .map(|(rank, address)| async move {
            sleep(HEAD_START * rank).await;
            attempt(quic, *address, peer).await
        })
        .collect();
    let mut failures = Vec::new();
    let mut said_no = None;
    while let Some(result) = attempts.next().await {
        match result {
            Ok(connection) => return Ok(connection),
            Err(FetchError::Connect { why, .. }) => failures.push(why),
            Err(error) => said_no = Some(error),
        }
    }
    if failures.is_empty() {
        failures.push("no address is known".to_owned());
    }
    let why = failures.join("; ");
    Err(said_no.unwrap_or(FetchError::Connect { peer, why }))
}

async fn attempt(quic: &Quic, address: SocketAddr, peer: PeerId) -> Result<Connection, FetchError> {
    let failed = |why: &dyn Display| FetchError::Connect { peer, why: format!("{address}: {why}") };
    let mut config = quic.client.clone();
    config.transport_config(Arc::new(dialled_transport(address, quic.control.clone())));
    let connecting = quic
        .endpoint
        .connect_with(config, address, &auth::server_name(&peer))
        .map_err(|error| failed(&error))?;
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) if auth::peer_of(&connection) == Some(peer) => Ok(connection),
        Ok(Ok(_)) => Err(failed(&"another peer answers")),
        Ok(Err(error)) => Err(match FetchError::of_connection(peer, &error) {
            FetchError::Lost { why, .. } => failed(&why),
            said_no => said_no,
        }),
        Err(_) => Err(failed(&"no answer")),
    }
}
