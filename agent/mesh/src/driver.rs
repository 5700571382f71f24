//! The one task that joins the brain to the swarm.
//!
//! It waits for one input at a time, reports it to the brain, and carries out what the brain says. It
//! never blocks: pages of the catalog are read on threads of their own.

mod incoming;
mod outgoing;

use crate::{
    behaviour::{Behaviour, BehaviourEvent},
    brain::Brain,
    dialer::Target,
    event::{Counters, Event},
    options::Catalog,
    peers::Token,
};
use futures::StreamExt as _;
use libp2p::{
    Swarm,
    request_response::{OutboundRequestId, ResponseChannel},
    swarm::{ConnectionId, SwarmEvent},
};
use netbuild_proto::membership::{Held, MAX_HELD, Response};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{self, JoinError, JoinSet},
};

/// How long closed connections have to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the user of the mesh wants.
#[derive(Debug)]
pub(crate) enum Command {
    Announce(Vec<Held>),
    Flush(oneshot::Sender<()>),
    Shutdown,
}

/// What the user may see at any time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct View {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) counters: Counters,
}

/// Something that happened.
enum Input {
    Swarm(Box<SwarmEvent<BehaviourEvent>>),
    /// `None` when the user has dropped every handle.
    Command(Option<Command>),
    Page(Result<(task::Id, Vec<Held>), JoinError>),
    /// The receiver of events has room, or is gone.
    Room(Option<mpsc::OwnedPermit<Event>>),
    Timeout,
}

/// The swarm with all that is under way on it.
pub(crate) struct Driver {
    swarm: Swarm<Behaviour>,
    brain: Brain,
    catalog: Arc<dyn Catalog>,
    commands: mpsc::Receiver<Command>,
    /// `None` once nobody receives.
    events: Option<mpsc::Sender<Event>>,
    view: watch::Sender<View>,
    addresses: Vec<SocketAddr>,
    dials: HashMap<ConnectionId, Target>,
    asks: HashMap<OutboundRequestId, u64>,
    answers: HashMap<Token, ResponseChannel<Response>>,
    next_token: u64,
    pages: JoinSet<Vec<Held>>,
    serving: HashMap<task::Id, ResponseChannel<Response>>,
}

impl Driver {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        brain: Brain,
        catalog: Arc<dyn Catalog>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        view: watch::Sender<View>,
    ) -> Self {
        Self {
            swarm,
            brain,
            catalog,
            commands,
            events: Some(events),
            view,
            addresses: Vec::new(),
            dials: HashMap::new(),
            asks: HashMap::new(),
            answers: HashMap::new(),
            next_token: 0,
            pages: JoinSet::new(),
            serving: HashMap::new(),
        }
    }

    /// Takes the addresses that were known before it ran.
    pub(crate) fn listens_at(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        self.addresses = addresses;
        self.handle_addresses(now);
        self.show();
    }

    /// Runs until it is told to stop or nobody is left to tell it.
    pub(crate) async fn run(mut self) {
        loop {
            self.carry_out();
            self.show();
            let input = self.next_input().await;
            if !self.handle(input) {
                break;
            }
        }
        self.say_goodbye().await;
    }

    async fn next_input(&mut self) -> Input {
        let timeout = self.brain.next_timeout().into();
        let waiting = !self.brain.outbox().is_empty();
        let room = self.events.clone().filter(|_| waiting);
        tokio::select! {
            event = self.swarm.select_next_some() => Input::Swarm(Box::new(event)),
            command = self.commands.recv() => Input::Command(command),
            Some(page) = self.pages.join_next_with_id() => Input::Page(page),
            Some(room) = reserve(room) => Input::Room(room),
            () = tokio::time::sleep_until(timeout) => Input::Timeout,
        }
    }

    /// Reports an input to the brain; `false` when it was the last.
    fn handle(&mut self, input: Input) -> bool {
        let now = Instant::now();
        match input {
            Input::Swarm(event) => self.handle_swarm(*event, now),
            Input::Command(Some(Command::Announce(held))) => self.brain.announce(held, now),
            Input::Command(Some(Command::Flush(done))) => {
                self.brain.flush(now);
                self.carry_out();
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
            Input::Command(Some(Command::Shutdown) | None) => return false,
            Input::Page(page) => self.handle_page(page),
            Input::Room(permit) => self.handle_room(permit),
            Input::Timeout => {}
        }
        true
    }

    fn handle_page(&mut self, page: Result<(task::Id, Vec<Held>), JoinError>) {
        match page {
            Ok((id, mut page)) => {
                page.truncate(MAX_HELD);
                if let Some(channel) = self.serving.remove(&id) {
                    self.answer(channel, Response::Held(page));
                }
            }
            Err(error) => {
                self.serving.remove(&error.id());
                tracing::warn!(%error, "the catalog failed to list its records");
            }
        }
    }

    fn handle_room(&mut self, permit: Option<mpsc::OwnedPermit<Event>>) {
        let Some(mut permit) = permit else {
            tracing::debug!("nobody receives the events of the mesh");
            self.events = None;
            return;
        };
        while let Some(event) = self.brain.outbox_mut().pop() {
            let Ok(next) = permit.send(event).try_reserve_owned() else {
                return;
            };
            permit = next;
        }
    }

    fn carry_out(&mut self) {
        let now = Instant::now();
        if self.events.is_none() {
            self.brain.outbox_mut().clear();
        }
        while let Some(action) = self.brain.poll_action(now) {
            self.act(action, now);
        }
    }

    fn show(&self) {
        let counters = self.brain.counters();
        self.view.send_if_modified(|view| {
            let same = view.counters == counters && view.addresses == self.addresses;
            if !same {
                view.counters = counters;
                view.addresses.clone_from(&self.addresses);
            }
            !same
        });
    }

    /// Closes every connection, so that nobody has to wait to notice.
    async fn say_goodbye(mut self) {
        let peers: Vec<libp2p::PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        if tokio::time::timeout(GOODBYE, closed).await.is_err() {
            tracing::debug!("not every peer took leave in time");
        }
    }
}

/// Room for one event: `None` when none is wanted, `Some(None)` when the receiver is gone.
async fn reserve(events: Option<mpsc::Sender<Event>>) -> Option<Option<mpsc::OwnedPermit<Event>>> {
    Some(events?.reserve_owned().await.ok())
}
