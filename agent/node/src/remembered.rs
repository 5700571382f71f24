//! What an agent remembers over a restart: its ports, the members that it met, and what it believed
//! of the links to them.

use netbuild_core::{link::Report, peer::PeerId};
use netbuild_mesh::{Seed, format_multiaddr, parse_multiaddr};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Most members that are remembered, as many as a mesh meets: those that it met last.
const MAX_MEMBERS: usize = 64;
/// Most bytes of the file that are read: far more than are ever written.
const MAX_FILE: u64 = 1 << 20;

/// Ports and members, as lines of text: `mesh PORT`, `data PORT`, `http PORT`, `member MULTIADDRESS`.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    path: PathBuf,
    mesh_port: u16,
    data_port: u16,
    http_port: u16,
    /// The one met last comes last.
    members: Vec<(PeerId, Vec<SocketAddr>)>,
}

impl Remembered {
    /// Reads the file of a data directory. Lines that cannot be read are left out: everything in
    /// it can be found out again.
    pub(crate) fn load(data_dir: &Path) -> Self {
        let path = data_dir.join("remembered");
        let mut remembered =
            Self { path, mesh_port: 0, data_port: 0, http_port: 0, members: Vec::new() };
        let small = fs::metadata(&remembered.path).is_ok_and(|meta| meta.len() <= MAX_FILE);
        let text = if small { fs::read_to_string(&remembered.path) } else { Ok(String::new()) };
        for line in text.unwrap_or_default().lines() {
            match line.split_once(' ') {
                Some(("mesh", port)) => remembered.mesh_port = port.parse().unwrap_or(0),
                Some(("data", port)) => remembered.data_port = port.parse().unwrap_or(0),
                Some(("http", port)) => remembered.http_port = port.parse().unwrap_or(0),
                Some(("member", address)) => {
                    if let Ok(Seed { peer: Some(peer), addresses }) = parse_multiaddr(address) {
                        // Its addresses stand together.
                        match remembered.members.last_mut() {
                            Some((last, known)) if *last == peer => known.extend(addresses),
                            _ => drop(remembered.meet(peer, &addresses)),
                        }
                    }
                }
                _ => {}
            }
        }
        remembered
    }

    pub(crate) fn mesh_port(&self) -> Option<u16> {
        (self.mesh_port != 0).then_some(self.mesh_port)
    }

    pub(crate) fn data_port(&self) -> Option<u16> {
        (self.data_port != 0).then_some(self.data_port)
    }

    pub(crate) fn http_port(&self) -> Option<u16> {
        (self.http_port != 0).then_some(self.http_port)
    }

    /// The members to dial.
    pub(crate) fn seeds(&self) -> impl Iterator<Item = Seed> + '_ {
        self.members
            .iter()
            .map(|(peer, addresses)| Seed { peer: Some(*peer), addresses: addresses.clone() })
    }

    /// Takes the ports of this time, and keeps them.
    pub(crate) fn with_ports(mut self, mesh: u16, data: u16, http: u16) -> Self {
        if (self.mesh_port, self.data_port, self.http_port) != (mesh, data, http) {
            (self.mesh_port, self.data_port, self.http_port) = (mesh, data, http);
            self.save();
        }
        self
    }

    /// Takes a member that was met; says whether that is news.
    pub(crate) fn meet(&mut self, peer: PeerId, addresses: &[SocketAddr]) -> bool {
        if addresses.is_empty()
            || self.members.iter().any(|(known, at)| *known == peer && at == addresses)
        {
            return false;
        }
        self.members.retain(|(known, _)| *known != peer);
        if self.members.len() >= MAX_MEMBERS {
            self.members.remove(0);
        }
        self.members.push((peer, addresses.to_vec()));
        true
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn save(&self) {
        let Self { mesh_port, data_port, http_port, .. } = self;
        let mut text = format!("mesh {mesh_port}\ndata {data_port}\nhttp {http_port}\n");
        for (peer, addresses) in &self.members {
            for address in addresses {
                text += &format!("member {}\n", format_multiaddr(*address, Some(peer)));
            }
        }
        write(&self.path, &text);
    }
}

/// The file of links: a line `PEER RTT_US GOODPUT` for each, the goodput in bytes per second and 0
/// where it is not known.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    path: PathBuf,
}

impl Links {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("links") }
    }

    /// What was believed, and how long ago.
    pub(crate) fn load(&self) -> (Vec<Report>, Duration) {
        let Ok(meta) = fs::metadata(&self.path) else { return (Vec::new(), Duration::ZERO) };
        let age = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        let small = meta.len() <= MAX_FILE;
        let text = if small { fs::read_to_string(&self.path) } else { Ok(String::new()) };
        let reports = text.unwrap_or_default().lines().filter_map(parse_link).collect();
        (reports, age.unwrap_or_default())
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn save(&self, reports: &[Report]) {
        let mut text = String::new();
        for report in reports {
            let (rtt, goodput) = (report.rtt.as_micros(), report.goodput.unwrap_or(0.0));
            text += &format!("{} {rtt} {goodput:.0}\n", report.peer);
        }
        write(&self.path, &text);
    }
}

/// A small file of text that is read when the agent starts and written now and then.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    path: PathBuf,
}

impl Kept {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What it says; nothing when it cannot be read.
    pub(crate) fn load(&self) -> String {
        let small = fs::metadata(&self.path).is_ok_and(|meta| meta.len() <= MAX_FILE);
        if small { fs::read_to_string(&self.path).unwrap_or_default() } else { String::new() }
    }

    /// Writes it, whole or not at all.
    pub(crate) fn save(&self, text: &str) {
        write(&self.path, text);
    }
}

fn parse_link(line: &str) -> Option<Report> {
    let mut words = line.split(' ');
    let peer = words.next()?.parse().ok()?;
    let rtt = Duration::from_micros(words.next()?.parse().ok()?);
    let goodput: f64 = words.next()?.parse().ok()?;
    let goodput = (goodput > 0.0).then_some(goodput);
    let (jitter, age) = (Duration::ZERO, Duration::ZERO);
    Some(Report { peer, rtt, jitter, loss: 0.0, goodput, age })
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, path)) {
        tracing::warn!(path = %path.display(), %error, "cannot be written; what it says is found out again after a restart");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::peer::Identity;

    #[test]
    fn links_come_back_and_nonsense_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::new(dir.path());
        assert_eq!(links.load().0, []);
        let report = |n, goodput| Report {
            peer: PeerId([n; 32]),
            rtt: Duration::from_micros(50_250),
            jitter: Duration::ZERO,
            loss: 0.0,
            goodput,
            age: Duration::ZERO,
        };
        let reports = [report(1, Some(12_500_000.0)), report(2, None)];
        links.save(&reports);
        assert_eq!(links.load().0, reports);
        fs::write(&links.path, "x\n12D3 1\n\n").unwrap();
        assert_eq!(links.load().0, []);
    }

    #[test]
    fn ports_and_members_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let peer = Identity::from_seed(&[1; 32]).peer_id();
        let addresses = ["192.0.2.1:7".parse().unwrap(), "[2001:db8::1]:7".parse().unwrap()];
        let mut remembered = Remembered::load(dir.path()).with_ports(4001, 4002, 4003);
        assert!(remembered.meet(peer, &addresses));
        assert!(!remembered.meet(peer, &addresses));
        remembered.save();
        let again = Remembered::load(dir.path());
        assert_eq!((again.mesh_port(), again.data_port()), (Some(4001), Some(4002)));
        let seeds: Vec<_> = again.seeds().collect();
        assert_eq!(seeds, [Seed { peer: Some(peer), addresses: addresses.to_vec() }]);
    }

    #[test]
    fn of_too_many_members_the_one_met_first_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let peer = |number: usize| Identity::from_seed(&[number as u8; 32]).peer_id();
        let address = ["192.0.2.1:7".parse().unwrap()];
        let mut remembered = Remembered::load(dir.path());
        for number in 0..=MAX_MEMBERS {
            assert!(remembered.meet(peer(number), &address));
        }
        remembered.save();
        let seeds: Vec<_> = Remembered::load(dir.path()).seeds().map(|seed| seed.peer).collect();
        let expected: Vec<_> = (1..=MAX_MEMBERS).map(|number| Some(peer(number))).collect();
        assert_eq!(seeds, expected);
    }

    #[test]
    fn nonsense_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("remembered"), "mesh x\nmember /nope\n\u{1}\ndata 9").unwrap();
        let remembered = Remembered::load(dir.path());
        assert_eq!((remembered.mesh_port(), remembered.data_port()), (None, Some(9)));
        assert_eq!(remembered.seeds().count(), 0);
    }
}
