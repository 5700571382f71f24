//! Sites as network namespaces: each has the device, one address, and routes to the others.

use crate::{
    error::WanError,
    ip::{self, Batch},
    place::Place,
    sys::{self, DEVICE, MTU},
};
use netbuild_core::wan::Layout;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{os::fd::AsFd as _, os::fd::OwnedFd, path::Path, thread};

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
/// Packets that the kernel keeps while the emulator sleeps; more than a burst of a full window.
pub(crate) const DEVICE_QUEUE: usize = 2_000;

/// The namespace of a site.
pub(crate) fn namespace(name: &str, site: &str) -> String {
    format!("{name}-{site}")
}

/// What removes the namespaces.
pub(crate) fn undo(name: &str, layout: &Layout) -> Vec<String> {
    let delete = |site: &str| format!("netns delete {}", namespace(name, site));
    layout.sites().iter().map(|site| delete(&site.name)).collect()
}

/// Ends unless all names are free.
pub(crate) fn check(name: &str, layout: &Layout) -> Result<(), WanError> {
    let mut names = layout.sites().iter().map(|site| namespace(name, &site.name));
    names
        .find(|name| Path::new(NAMESPACES).join(name).exists())
        .map_or(Ok(()), |name| Err(WanError::Foreign(name)))
}

/// Makes the namespaces, and a device in each.
pub(crate) fn create(name: &str, layout: &Layout) -> Result<Vec<OwnedFd>, WanError> {
    let names: Vec<_> = layout.sites().iter().map(|site| namespace(name, &site.name)).collect();
    ip::batch(None, &names.iter().map(|name| format!("netns add {name}")).collect::<Vec<_>>())?;
    let tuns = names.iter().map(|name| open_within(name)).collect::<Result<_, _>>()?;
    let mut running = Vec::new();
    for (site, name) in layout.sites().iter().zip(&names) {
        let address = site.prefix.first_host();
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!("link set {DEVICE} mtu {MTU} txqueuelen {DEVICE_QUEUE} up"),
            format!("address add {address}/{} dev {DEVICE}", site.prefix.length()),
        ];
        for other in layout.sites().iter().filter(|other| other.name != site.name) {
            lines.push(format!("route add {} dev {DEVICE} src {address}", other.prefix));
        }
        running.push(Batch::start(Some(name), &lines)?);
    }
    running.into_iter().try_for_each(Batch::finish)?;
    Ok(tuns)
}

/// Makes a device in a namespace, on a thread that ends in it.
fn open_within(namespace: &str) -> Result<OwnedFd, WanError> {
    let name = namespace.to_owned();
    let opener = thread::Builder::new()
        .name("tun".to_owned())
        .spawn(move || move_into(&name).and_then(|()| sys::open_tun()))
        .map_err(WanError::io("start a thread"))?;
    opener.join().unwrap_or_else(|_| {
        Err(WanError::io("open a device")(std::io::Error::other("the thread panicked")))
    })
}

/// Moves the calling thread into a namespace.
fn move_into(namespace: &str) -> Result<(), WanError> {
    let path = Path::new(NAMESPACES).join(namespace);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(&path, flags, Mode::empty()).map_err(WanError::file("open", &path))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|error| {
        match error {
            Errno::PERM => WanError::NotRoot,
            other => WanError::file("enter", &path)(other),
        }
    })
}

/// Moves the calling thread, and what it starts from now on, into the network of a site.
///
/// # Errors
/// When no such emulator runs, when it has no such site, or without the rights of root.
pub fn enter(name: &str, site: &str) -> Result<(), WanError> {
    if !rustix::process::geteuid().is_root() {
        return Err(WanError::NotRoot);
    }
    Place::of(name)?.running()?;
    // A name with a slash in it would lead elsewhere.
    let namespace = namespace(name, site);
    if site.contains('/') || !Path::new(NAMESPACES).join(&namespace).exists() {
        return Err(WanError::NoSite(site.to_owned()));
    }
    move_into(&namespace)
}
