//! The one task that joins the brain to the swarm.
//!
//! It waits for one input at a time, reports it to the brain, and carries out what the brain says. It
//! never blocks: what members ask of the user is answered on threads of their own.

mod exchange;
mod incoming;
mod outgoing;

use crate::{
    behaviour::{Behaviour, BehaviourEvent},
    brain::Brain,
    dialer::Target,
    event::{Counters, Event},
    mesh::AskError,
    peers::Token,
};
pub(crate) use exchange::Exchanges;
use futures::StreamExt as _;
use libp2p::{
    Swarm,
    request_response::{OutboundRequestId, ResponseChannel},
    swarm::{ConnectionId, SwarmEvent},
};
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{Held, LinkReport, Response};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

/// How long closed connections have to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the user of the mesh wants.
#[derive(Debug)]
pub(crate) enum Command {
    Announce(Vec<Held>),
    SetRegion(String),
    ReportLinks { links: Vec<LinkReport>, urgent: bool },
    Ask { peer: PeerId, question: Vec<u8>, reply: Reply },
    Flush(oneshot::Sender<()>),
    Shutdown,
}

/// Where the answer to a question of the user goes.
pub(crate) type Reply = oneshot::Sender<Result<Vec<u8>, AskError>>;

/// Who waits for an answer.
#[derive(Debug)]
enum Asker {
    /// The brain, under this number.
    Brain(u64),
    User(Reply),
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
    /// An answer of the user is ready.
    Answer(exchange::Answered),
    /// The receiver of events has room, or is gone.
    Room(Option<mpsc::OwnedPermit<Event>>),
    Timeout,
}

/// The swarm with all that is under way on it.
pub(crate) struct Driver {
    swarm: Swarm<Behaviour>,
    brain: Brain,
    exchanges: Exchanges,
    commands: mpsc::Receiver<Command>,
    /// `None` once nobody receives.
    events: Option<mpsc::Sender<Event>>,
    view: watch::Sender<View>,
    /// Where this agent listens, and where others reach it.
    listening: Vec<SocketAddr>,
    announce: Option<IpAddr>,
    addresses: Vec<SocketAddr>,
    dials: HashMap<ConnectionId, Target>,
    asks: HashMap<OutboundRequestId, (PeerId, Asker)>,
    answers: HashMap<Token, ResponseChannel<Response>>,
    next_token: u64,
    /// Members that can be found by others, as counted when that last changed.
    routed: u64,
}

impl Driver {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        brain: Brain,
        exchanges: Exchanges,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        view: watch::Sender<View>,
        announce: Option<IpAddr>,
    ) -> Self {
        Self {
            swarm,
            brain,
            exchanges,
            commands,
            events: Some(events),
            view,
            listening: Vec::new(),
            announce,
            addresses: Vec::new(),
            dials: HashMap::new(),
            asks: HashMap::new(),
            answers: HashMap::new(),
            next_token: 0,
            routed: 0,
        }
    }

    /// Takes the addresses that were known before it ran.
    pub(crate) fn listens_at(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        self.listening = addresses;
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
        let timeout = self.brain.next_timeout(Instant::now()).into();
        let waiting = !self.brain.outbox().is_empty();
        let room = self.events.clone().filter(|_| waiting);
        tokio::select! {
            event = self.swarm.select_next_some() => Input::Swarm(Box::new(event)),
            command = self.commands.recv() => Input::Command(command),
            Some(answer) = self.exchanges.next() => Input::Answer(answer),
            Some(room) = reserve(room) => Input::Room(room),
            () = tokio::time::sleep_until(timeout) => Input::Timeout,
        }
    }

    /// Reports an input to the brain; `false` when it was the last.
    fn handle(&mut self, input: Input) -> bool {
        let now = Instant::now();
        match input {
            Input::Swarm(event) => self.handle_swarm(*event, now),
            Input::Command(Some(command)) => return self.handle_command(command, now),
            Input::Command(None) => return false,
            Input::Answer(answer) => self.handle_answered(answer),
            Input::Room(permit) => self.handle_room(permit),
            Input::Timeout => {}
        }
        true
    }

    /// Does what the user wants; `false` when that is to end.
    fn handle_command(&mut self, command: Command, now: Instant) -> bool {
        match command {
            Command::Announce(held) => self.brain.announce(held, now),
            Command::SetRegion(region) => self.brain.set_region(region, now),
            Command::ReportLinks { links, urgent } => self.brain.report_links(links, urgent),
            Command::Ask { peer, question, reply } => self.ask_for_user(peer, question, reply),
            Command::Flush(done) => {
                self.brain.flush(now);
                self.carry_out();
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
            Command::Shutdown => return false,
        }
        true
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
        let counters = Counters { routed: self.routed, ..self.brain.counters() };
        self.view.send_if_modified(|view| {
            let same = view.counters == counters && view.addresses == self.addresses;
            if !same {
                view.counters = counters;
                view.addresses.clone_from(&self.addresses);
            }
            !same
        });
    }

    /// Says what is left to be said and closes every connection, so that nobody has to wait to notice.
    async fn say_goodbye(mut self) {
        self.brain.farewell(Instant::now());
        let said = async {
            loop {
                self.carry_out();
                let now = Instant::now();
                if self.brain.is_quiet(now) {
                    return;
                }
                tokio::select! {
                    event = self.swarm.select_next_some() => self.handle_swarm(event, now),
                    () = tokio::time::sleep_until(self.brain.next_timeout(now).into()) => {}
                }
            }
        };
        if tokio::time::timeout(GOODBYE, said).await.is_err() {
            tracing::debug!("not everything was said in time");
        }
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
