//! Tells whoever supervises the agent, such as systemd, that it serves: `sd_notify`, which is a datagram.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{ffi::OsStrExt as _, net::SocketAddr, net::UnixDatagram},
    },
};

/// Where the supervisor listens, if there is one that wants to know.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Says that the agent serves. That nobody can be told stops no agent.
pub(crate) fn ready(status: &str) {
    let Some(place) = std::env::var_os(VARIABLE).filter(|place| !place.is_empty()) else { return };
    if let Err(error) = tell(&place, status) {
        tracing::warn!(%error, "cannot tell `{}` that the agent serves", place.display());
    }
}

fn tell(place: &OsStr, status: &str) -> io::Result<()> {
    let address = match place.as_bytes() {
        // A name without a file.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    // One that does not read must not hold the agent up.
    socket.set_nonblocking(true)?;
    let message = format!("READY=1\nSTATUS={}\n", status.replace('\n', " "));
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_hears_it_by_path_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("netbuild-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, place) in [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ] {
            tell(&place, "serves us-east\nREADY=0").unwrap();
            let mut heard = [0; 100];
            let length = socket.recv(&mut heard).unwrap();
            let heard = String::from_utf8_lossy(&heard[..length]);
            assert_eq!(heard, "READY=1\nSTATUS=serves us-east READY=0\n");
        }
        assert!(tell(OsStr::new("/nonexistent/notify"), "").is_err());
    }
}
