//! Answers to requests to bring blobs here: a sign of life while that lasts, then what is here.

use crate::{
    frame::FrameWriter,
    provider::{Provider, ServeError},
    seats::{Seat, Seats},
};
use bytes::Bytes;
use netbuild_core::{digest::Digest, peer::PeerId};
use netbuild_proto::data::{HEARTBEAT, encode_bitmap};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior, interval_at},
};

/// Requests to bring something that are worked on at once. Each keeps a thread of the blocking
/// pool, which has 512, and each brings up to a thousand blobs.
const MAX_BRINGS: usize = 16;
/// The same for one peer, so that a few others always find room.
const MAX_BRINGS_PER_PEER: usize = 4;
/// Time between signs of life: several within the usual patience of a requester.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// Room for requests to bring something.
#[derive(Debug)]
pub(crate) struct BringRoom {
    all: Arc<Semaphore>,
    peers: Seats,
}

impl Default for BringRoom {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_BRINGS)), peers: Seats::of(MAX_BRINGS_PER_PEER) }
    }
}

impl BringRoom {
    fn take(&self, peer: PeerId) -> Option<(OwnedSemaphorePermit, Seat)> {
        Some((self.all.clone().try_acquire_owned().ok()?, self.peers.take(peer)?))
    }
}

impl Provider {
    /// Has the blobs brought here, and answers with which of them are here then. What was begun
    /// goes on, and keeps its room, when the requester gives up.
    pub(crate) async fn answer_bring(
        &self,
        peer: PeerId,
        blobs: Vec<Digest>,
        writer: &mut FrameWriter,
    ) -> Result<(), ServeError> {
        let room = self.brings.take(peer).ok_or(ServeError::Busy)?;
        let provide = self.provide.clone();
        let mut bringing = self.block(move || {
            let mut here = provide.bring(&peer, &blobs);
            drop(room);
            here.resize(blobs.len(), false);
            here
        });
        let mut stopped = pin!(writer.stopped());
        let mut beat = interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let here = loop {
            tokio::select! {
                here = &mut bringing => break here.map_err(|_| ServeError::Read)?,
                _ = &mut stopped => return Err(ServeError::Stopped),
                _ = beat.tick() => writer.send_frame(Bytes::from_static(&HEARTBEAT)).await?,
            }
        };
        Ok(writer.send_frame(encode_bitmap(&here).into()).await?)
    }
}
