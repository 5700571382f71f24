//! Sites as addresses of the loopback interface, which need no rights: programs of a site listen on
//! its inner address, are told to others by its outer one, and every datagram for an outer address
//! is passed on by this process. UDP only.
//!
//! It is a translation of addresses, one to one and both ways: what comes from the inner address
//! of A to the outer address of B leaves from the outer address of A to the inner address of B, the
//! ports unchanged. Nothing but the emulator keeps a program from using an inner address.

use crate::{devices::Route, error::WanError};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketAddrAny, recvfrom, sendto, sockopt},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::OwnedFd,
};

/// UDP ports of a site: that of the mesh and that of the data plane.
pub const PORTS: usize = 2;
/// Headers of IP and UDP, which a packet has on a link.
const HEADERS: usize = 28;
/// Kernel buffers, each way, as long as the emulator sleeps; the kernel may give less.
const SOCKET_BUFFER: usize = 4 << 20;
/// How often a port is drawn that must be free on two addresses.
const DRAWS: usize = 100;

/// Where the programs of a site listen.
fn inner(site: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, 1, host(site))
}

/// Where others reach them.
fn outer(site: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, 2, host(site))
}

fn host(site: usize) -> u8 {
    u8::try_from(site + 1).unwrap_or(u8::MAX)
}

/// What programs of a site have to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Door {
    /// The address to listen on.
    pub inner: Ipv4Addr,
    /// The address to tell others.
    pub outer: Ipv4Addr,
    /// The ports that are passed on.
    pub ports: [u16; PORTS],
}

/// The sockets of all sites.
#[derive(Debug)]
pub(crate) struct Relay {
    /// [`PORTS`] of each site, at its outer address.
    doors: Vec<OwnedFd>,
    /// Where what comes through each door goes.
    behind: Vec<SocketAddrV4>,
}

impl Relay {
    /// Takes ports for so many sites.
    pub(crate) fn bind(sites: usize) -> Result<Self, WanError> {
        let (mut doors, mut behind) = (Vec::new(), Vec::new());
        for site in (0..sites).flat_map(|site| [site; PORTS]) {
            let (door, port) = bind_free(site).map_err(WanError::io("take a port of loopback"))?;
            doors.push(OwnedFd::from(door));
            behind.push(SocketAddrV4::new(inner(site), port));
        }
        Ok(Self { doors, behind })
    }

    pub(crate) fn doors(&self) -> &[OwnedFd] {
        &self.doors
    }

    pub(crate) fn door(&self, site: usize) -> Option<Door> {
        let behind = self.behind.get(site * PORTS..)?.first_chunk::<PORTS>()?;
        let ports = behind.map(|address| address.port());
        Some(Door { inner: inner(site), outer: outer(site), ports })
    }

    /// Reads a datagram that came through a door.
    pub(crate) fn read(
        &self,
        number: usize,
        buffer: &mut [u8],
    ) -> Result<(usize, Option<Route>), Errno> {
        let door = self.doors.get(number).ok_or(Errno::AGAIN)?;
        let (len, _, source) = recvfrom(door, buffer, RecvFlags::empty())?;
        let source = source.and_then(|source| SocketAddrV4::try_from(source).ok());
        // Whoever else sends to this port is at no site.
        let from = source.and_then(|source| self.behind.iter().position(|at| *at == source));
        let route = from.map(|from| Route {
            from: from / PORTS,
            to: number / PORTS,
            doors: (number, from),
        });
        Ok((len, route))
    }

    /// Passes a datagram on, from the door of whoever sent it.
    pub(crate) fn write(&self, route: Route, bytes: &[u8]) -> bool {
        let (to, from) = route.doors;
        let (Some(to), Some(from)) = (self.behind.get(to), self.doors.get(from)) else {
            return false;
        };
        sendto(from, bytes, SendFlags::empty(), &SocketAddrAny::from(*to)).is_ok()
    }

    /// How long a datagram is on a link.
    pub(crate) fn length_on_link(len: usize) -> usize {
        len + HEADERS
    }
}

/// A socket at the outer address of a site, with a port that is free at the inner one too.
fn bind_free(site: usize) -> io::Result<(UdpSocket, u16)> {
    for _ in 0..DRAWS {
        let door = UdpSocket::bind((outer(site), 0))?;
        let port = door.local_addr()?.port();
        match UdpSocket::bind((inner(site), port)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            Err(error) => return Err(error),
        }
        door.set_nonblocking(true)?;
        // Less than asked for is as good as it gets.
        let _ = sockopt::set_socket_recv_buffer_size(&door, SOCKET_BUFFER);
        let _ = sockopt::set_socket_send_buffer_size(&door, SOCKET_BUFFER);
        return Ok((door, port));
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_a_site_comes_from_its_outer_address_with_its_port() {
        let relay = Relay::bind(2).unwrap();
        let [a, b] = [0, 1].map(|site| relay.door(site).unwrap());
        let end =
            |door: Door, port: usize| UdpSocket::bind((door.inner, door.ports[port])).unwrap();
        let (from, to) = (end(a, 0), end(b, 1));
        from.send_to(b"hello", (b.outer, b.ports[1])).unwrap();
        let mut buffer = [0; 16];
        let (len, route) = loop {
            match relay.read(PORTS + 1, &mut buffer) {
                Err(Errno::AGAIN) => {}
                other => break other.unwrap(),
            }
        };
        let route = route.unwrap();
        assert_eq!((len, route.from, route.to), (5, 0, 1));
        assert!(relay.write(route, &buffer[..len]));
        let (len, seen) = to.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello");
        assert_eq!(seen, (a.outer, a.ports[0]).into());
    }

    #[test]
    fn a_stranger_is_at_no_site() {
        let relay = Relay::bind(2).unwrap();
        let b = relay.door(1).unwrap();
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        stranger.send_to(b"hello", (b.outer, b.ports[0])).unwrap();
        let route = loop {
            match relay.read(PORTS, &mut [0; 16]) {
                Err(Errno::AGAIN) => {}
                other => break other.unwrap().1,
            }
        };
        assert_eq!(route, None);
    }
}
