//! Links between addresses of the loopback interface, emulated by a thread of this process.

use crate::{
    control::{Asker, Control},
    devices::Devices,
    emulator::{Emulator, Identity},
    error::WanError,
    protocol::{Request, Response, SiteStatus},
    relay::{Door, Relay},
    sys,
};
use netbuild_core::wan::{Layout, LinkSpec, SiteSpec};
use rustix::event::{EventfdFlags, eventfd};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

/// Links that are up until this is dropped.
#[derive(Debug)]
pub struct Loopback {
    doors: BTreeMap<String, Door>,
    asker: Asker,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Loopback {
    /// Emulates links between sites; `seed` decides what is lost and how profiles vary.
    ///
    /// # Errors
    /// When the sites cannot be so, or loopback has no ports for them.
    pub fn start(sites: &[SiteSpec], links: &[LinkSpec], seed: u64) -> Result<Self, WanError> {
        let layout = Layout::new(sites, links)?;
        let relay = Relay::bind(layout.sites().len())?;
        let numbered = || layout.sites().iter().enumerate();
        let doors: BTreeMap<String, Door> =
            numbered().filter_map(|(n, site)| Some((site.name.clone(), relay.door(n)?))).collect();
        let sites = numbered().map(|(_, site)| SiteStatus {
            name: site.name.clone(),
            prefix: doors.get(&site.name).map(|door| door.outer.to_string()).unwrap_or_default(),
            address: doors.get(&site.name).map(|door| door.inner.to_string()),
            namespace: None,
        });
        let sites = sites.collect();
        let (control, asker) = Control::pair()?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let stop = Arc::new(stop.map_err(WanError::io("make an eventfd"))?);
        let stopped = Arc::clone(&stop);
        let emulate = move || {
            let identity =
                Identity { name: "loopback".to_owned(), sites, realtime: sys::run_first() };
            let devices = Devices::Relay(relay);
            let mut emulator = Emulator::new(identity, layout, devices, seed, Instant::now());
            if let Err(error) = emulator.run(&control, stopped.as_fd()) {
                // Whoever asks next hears that it is gone.
                tracing::error!(%error, "the emulated links broke");
            }
        };
        let thread = thread::Builder::new().name("links".to_owned()).spawn(emulate);
        let thread = thread.map_err(WanError::io("start a thread"))?;
        Ok(Self { doors, asker, stop, thread: Some(thread) })
    }

    /// What programs of a site have to be told.
    pub fn door(&self, site: &str) -> Option<Door> {
        self.doors.get(site).copied()
    }

    /// Asks for a change, or for the state.
    ///
    /// # Errors
    /// When the emulator says no, or is gone.
    pub fn ask(&self, request: Request) -> Result<Response, WanError> {
        match self.asker.ask(request).map_err(WanError::io("ask the emulator"))? {
            Response::Error { message } => Err(WanError::Refused(message)),
            response => Ok(response),
        }
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        // It fails only when the counter is full, and then the thread is told already.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the emulated links panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_datagram_takes_half_of_the_round_trip_and_none_passes_a_cut() {
        let sites: Vec<SiteSpec> =
            ["us-east", "office"].iter().map(|name| name.parse().unwrap()).collect();
        let links = Loopback::start(&sites, &[], 1).unwrap();
        let [a, b] = ["us-east", "office"].map(|site| links.door(site).unwrap());
        let [from, to] = [a, b].map(|door| UdpSocket::bind((door.inner, door.ports[0])).unwrap());
        let began = Instant::now();
        from.send_to(b"hello", (b.outer, b.ports[0])).unwrap();
        let mut buffer = [0; 16];
        let (len, _) = to.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello");
        assert!(began.elapsed().as_millis() >= 25);

        let cut = Request::Set { target: "us-east:office".to_owned(), profile: "cut".to_owned() };
        assert_eq!(links.ask(cut).unwrap(), Response::Changed { links: 1 });
        from.send_to(b"hello", (b.outer, b.ports[0])).unwrap();
        let dropped = || {
            let Response::Status(status) = links.ask(Request::Status).unwrap() else { panic!() };
            status.links.iter().map(|link| link.dropped_cut).sum::<u64>()
        };
        while dropped() == 0 {
            thread::yield_now();
        }
        let moon = Request::Set { target: "moon".to_owned(), profile: "cut".to_owned() };
        assert!(links.ask(moon).is_err());
    }
}
