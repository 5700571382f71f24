//! Where packets come from and where they go: TUN devices, or the sockets of a relay.

use crate::{relay::Relay, sys::MTU};
use netbuild_core::wan::Layout;
use rustix::io::Errno;
use std::{net::Ipv4Addr, os::fd::OwnedFd};

/// A packet may be this long and one byte longer, by which a longer one is told.
const BUFFER: usize = MTU + 1;
/// Length of an IPv4 header without options.
const HEADER: usize = 20;

/// From which site to which a packet goes, and through which doors of a relay.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Route {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// By which it came, and by which it leaves; of no meaning for devices.
    pub(crate) doors: (usize, usize),
}

/// A packet, in a buffer that is used again for others of any length.
#[derive(Debug)]
pub(crate) struct Packet {
    buffer: Box<[u8; BUFFER]>,
    len: usize,
    route: Route,
}

impl Packet {
    pub(crate) fn new() -> Self {
        Self { buffer: Box::new([0; BUFFER]), len: 0, route: Route::default() }
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

/// The devices.
#[derive(Debug)]
pub(crate) enum Devices {
    /// One for each site, in their order.
    PerSite(Vec<OwnedFd>),
    /// One for all sites, which are told apart by their addresses.
    Shared(OwnedFd),
    /// Sockets on loopback.
    Relay(Relay),
}

impl Devices {
    pub(crate) fn all(&self) -> &[OwnedFd] {
        match self {
            Self::PerSite(devices) => devices,
            Self::Shared(device) => std::slice::from_ref(device),
            Self::Relay(relay) => relay.doors(),
        }
    }

    /// Reads the next packet of a device. Its route and its length on the link, with all headers;
    /// no route for one that goes nowhere.
    pub(crate) fn read(
        &self,
        number: usize,
        packet: &mut Packet,
        layout: &Layout,
    ) -> Result<Option<(Route, usize)>, Errno> {
        let device = self.all().get(number).ok_or(Errno::AGAIN)?;
        let routed = if let Self::Relay(relay) = self {
            let (len, route) = relay.read(number, packet.buffer.as_mut_slice())?;
            packet.len = len;
            route.map(|route| (route, Relay::length_on_link(len)))
        } else {
            packet.len = rustix::io::read(device, packet.buffer.as_mut_slice())?;
            self.route(number, packet.bytes(), layout).map(|route| (route, packet.len))
        };
        let routed = routed.filter(|(_, len)| *len <= MTU);
        packet.route = routed.map(|(route, _)| route).unwrap_or_default();
        Ok(routed)
    }

    fn route(&self, number: usize, packet: &[u8], layout: &Layout) -> Option<Route> {
        let (source, destination) = addresses(packet)?;
        let from = match self {
            Self::Shared(_) => layout.site_of(source)?,
            _ => number,
        };
        Some(Route { from, to: layout.site_of(destination)?, doors: (0, 0) })
    }

    /// Hands a packet to where it goes. Whether it was taken: like a wire, this does not try again.
    pub(crate) fn write(&self, packet: &Packet) -> bool {
        let device = match self {
            Self::PerSite(devices) => devices.get(packet.route.to),
            Self::Shared(device) => Some(device),
            Self::Relay(relay) => return relay.write(packet.route, packet.bytes()),
        };
        device.is_some_and(|device| rustix::io::write(device, packet.bytes()).is_ok())
    }
}

/// Source and destination of an IPv4 packet; `None` for anything else.
fn addresses(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header = packet.first_chunk::<HEADER>()?;
    if header[0] >> 4 != 4 {
        return None;
    }
    let [.., a, b, c, d, e, f, g, h] = *header;
    Some((Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_are_not(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let found = addresses(&bytes);
            prop_assert_eq!(found.is_some(), bytes.len() >= HEADER && bytes[0] >> 4 == 4);
        }
    }
}
