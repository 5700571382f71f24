//! Questions of members that the user of the mesh answers, on threads of their own.

use super::Driver;
use crate::{options::Exchange, peers::Token};
use libp2p::request_response::ResponseChannel;
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{MAX_EXCHANGE, Response};
use std::{collections::HashMap, sync::Arc};
use tokio::task::{self, JoinError, JoinSet};

/// Questions answered at once; more than the threads of a small machine, fewer than would keep the
/// store from its other work. Who is left out is refused and asks again.
const MAX_SERVING: usize = 16;
/// Questions of one member answered at once, so that none takes all the places.
const MAX_SERVING_PER_PEER: usize = 4;

/// An answer that is ready, or the panic that is there instead.
pub(super) type Answered = Result<(task::Id, Option<Vec<u8>>), JoinError>;

/// The questions that are being answered.
pub(crate) struct Exchanges {
    exchange: Arc<dyn Exchange>,
    tasks: JoinSet<Option<Vec<u8>>>,
    askers: HashMap<task::Id, (PeerId, ResponseChannel<Response>)>,
}

impl Exchanges {
    pub(crate) fn new(exchange: Arc<dyn Exchange>) -> Self {
        Self { exchange, tasks: JoinSet::new(), askers: HashMap::new() }
    }

    /// The next answer; `None` while nothing is asked.
    pub(super) async fn next(&mut self) -> Option<Answered> {
        self.tasks.join_next_with_id().await
    }

    fn has_room(&self, peer: &PeerId) -> bool {
        let of_peer = self.askers.values().filter(|(asker, _)| asker == peer).count();
        self.tasks.len() < MAX_SERVING && of_peer < MAX_SERVING_PER_PEER
    }
}

impl Driver {
    pub(super) fn exchange(&mut self, token: Token, peer: PeerId, question: Vec<u8>) {
        let Some(channel) = self.answers.remove(&token) else {
            return;
        };
        if !self.exchanges.has_room(&peer) {
            tracing::debug!(%peer, "too many questions at once");
            self.answer(channel, Response::Refused);
            return;
        }
        let exchange = Arc::clone(&self.exchanges.exchange);
        let task = self.exchanges.tasks.spawn_blocking(move || exchange.answer(&peer, question));
        self.exchanges.askers.insert(task.id(), (peer, channel));
    }

    pub(super) fn handle_answered(&mut self, answered: Answered) {
        let (id, answer) = match answered {
            Ok((id, answer)) => (id, answer),
            Err(error) => {
                tracing::warn!(%error, "a question of a member could not be answered");
                (error.id(), None)
            }
        };
        let Some((peer, channel)) = self.exchanges.askers.remove(&id) else {
            return;
        };
        let fits = |answer: &Vec<u8>| {
            let fits = answer.len() <= MAX_EXCHANGE;
            if !fits {
                tracing::warn!(%peer, bytes = answer.len(), "an answer is too long to be sent");
            }
            fits
        };
        let response = answer.filter(fits).map_or(Response::Refused, Response::Exchange);
        self.answer(channel, response);
    }
}
