//! Looks at this machine for `netbuild doctor`: gathers the facts that `core::doctor` judges.
//!
//! Each look has a thread of its own and a time limit, as a disk or a server may never answer; what hangs is
//! left behind and ends with the process. Nothing is changed: what is written for a trial is removed.

mod directory;
mod machine;
mod owner;
mod ports;
mod tiers;

use crate::config::Settings;
use netbuild_core::doctor::{Clock, Configuration, Facts, Look};
use netbuild_proto::control::Status;
use owner::Visit;
use std::{
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// The part of the whole time that the owner of the data directory may take to answer: it does so at
/// once, or hangs. What else there is to look at is found out afterwards, all at the same time.
const FOR_OWNER: f64 = 0.3;
/// The part for everything else.
pub const FOR_EACH: f64 = 0.6;
/// The part of that for a handshake, of which some come after another.
const FOR_HANDSHAKE: f64 = 0.5;

/// A look that is under way.
#[derive(Debug)]
pub struct Looking<T> {
    answer: Receiver<T>,
    limit: Duration,
    until: Instant,
}

impl<T: Send + 'static> Looking<T> {
    /// Begins to look, for so long at most.
    pub fn start(limit: Duration, look: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, answer) = mpsc::channel();
        // Without a thread there is no answer, as when it does not come in time.
        drop(thread::Builder::new().name("look".into()).spawn(move || tell.send(look())));
        Self { answer, limit, until: Instant::now() + limit }
    }

    /// What came of it by the time it has.
    pub fn take(self) -> Look<T> {
        let left = self.until.saturating_duration_since(Instant::now());
        self.answer.recv_timeout(left).map_or(Look::Late(self.limit), Look::Seen)
    }
}

/// All facts but those of the runner. Without settings, as the configuration cannot be used, those that
/// need none. Takes as long as `all` at most.
pub fn examine(configuration: Configuration, settings: Option<&Settings>, all: Duration) -> Facts {
    let limit = all.mul_f64(FOR_EACH);
    let mut facts = Facts { configuration, ..Facts::default() };
    let buffers = Looking::start(limit, machine::buffers);
    let tiers =
        settings.map_or(&[][..], |settings| settings.cache.tiers.as_slice()).iter().map(|tier| {
            let (name, tier) = (tier.name.to_string(), tier.clone());
            (name, Looking::start(limit, move || tiers::look(&tier)))
        });
    let tiers: Vec<_> = tiers.collect();
    let status = settings.and_then(|settings| {
        let data_dir = settings.data_dir.clone();
        let visit = Looking::start(all.mul_f64(FOR_OWNER), move || owner::visit(&data_dir))
            .take()
            .flatten();
        let (owner, status) = match visit {
            Look::Seen(Visit { owner, status }) => (Look::Seen(owner), status),
            Look::Nothing => (Look::Nothing, None),
            Look::Late(limit) => (Look::Late(limit), None),
        };
        facts.owner = owner;
        status
    });
    let agent = status.as_ref().filter(|status| status.role == "agent").map(|status| status.pid);
    let limits = Looking::start(limit, move || machine::limits(agent));
    let wall_ms = crate::decisions::wall_ms();
    let records_ahead = status.as_ref().map_or(0, |it| owner::counter(it, "records_ahead"));
    facts.clock = Look::Seen(Clock { wall_ms, records_ahead });
    if let Some(settings) = settings {
        look_around(&mut facts, settings, status, limit);
    }
    facts.tiers = tiers.into_iter().map(|(name, look)| (name, look.take())).collect();
    facts.limits = limits.take();
    facts.buffers = buffers.take().flatten();
    facts
}

/// The directory and the addresses that the settings name.
fn look_around(facts: &mut Facts, settings: &Settings, status: Option<Status>, limit: Duration) {
    let handshake = limit.mul_f64(FOR_HANDSHAKE);
    let (data_dir, store) = (settings.data_dir.clone(), settings.store);
    let held = status.as_ref().map(|status| status.store.blob_bytes);
    let directory = Looking::start(limit, move || directory::look(&data_dir, &store, held));
    let configured = settings.clone();
    let ports = Looking::start(limit, move || ports::look(&configured, status.as_ref(), handshake));
    let configured = settings.clone();
    let invitation = Looking::start(limit, move || ports::invitation(&configured, handshake));
    facts.directory = directory.take();
    facts.ports = ports.take();
    facts.invitation = invitation.take().flatten();
}
