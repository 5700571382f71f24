//! What can go wrong, with advice.

use netbuild_core::wan::{LayoutError, UnknownProfile, UnknownTarget};
use std::{io, path::PathBuf};

/// Why the emulator does not do what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// The name of an emulator cannot be one.
    #[error("`{0}` cannot name an emulator: 1 to 32 of a-z, 0-9 and -")]
    Name(String),
    /// The sites or links cannot be so.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Not enough rights.
    #[error("emulated links need the rights of root")]
    NotRoot,
    /// No TUN devices here.
    #[error("there is no /dev/net/tun")]
    NoTun,
    /// The tool is missing.
    #[error("the command `ip` is not installed")]
    NoIp,
    /// The tool refused something.
    #[error("`ip` failed: {0}")]
    Ip(String),
    /// An emulator of this name runs.
    #[error("emulated links named `{name}` are up already, pid {pid}")]
    AlreadyUp {
        /// The name.
        name: String,
        /// The process.
        pid: i32,
    },
    /// No emulator of this name runs.
    #[error("no emulated links named `{0}` are up")]
    NotUp(String),
    /// A namespace is in the way that no emulator made.
    #[error("there is a network namespace `{0}` already, and it is not from an emulator")]
    Foreign(String),
    /// A site that the emulator does not have.
    #[error("there is no site `{0}`")]
    NoSite(String),
    /// A router's site without addresses.
    #[error("the site `{0}` has no addresses")]
    NoPrefix(String),
    /// The kernel would not route between the sites.
    #[error("{setting} is {value} here, a router needs {needed}")]
    Sysctl {
        /// The setting.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What it has to be.
        needed: &'static str,
    },
    /// No profile of this name.
    #[error(transparent)]
    Profile(#[from] UnknownProfile),
    /// No link of this name.
    #[error(transparent)]
    Target(#[from] UnknownTarget),
    /// The emulator said no.
    #[error("{0}")]
    Refused(String),
    /// A call of the operating system failed.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried.
        action: String,
        /// What the system said.
        error: io::Error,
    },
}

impl WanError {
    /// For `map_err`: what was tried.
    pub(crate) fn io<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |error| Self::Io { action, error: error.into() }
    }

    pub(crate) fn file<E: Into<io::Error>>(
        action: &str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        Self::io(format!("{action} `{}`", path.into().display()))
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotRoot => "run it with sudo, or in a container with `--cap-add NET_ADMIN \
                              --cap-add SYS_ADMIN --device /dev/net/tun`"
                .to_owned(),
            Self::NoTun => "load it with `modprobe tun`; a container gets it with `--device \
                            /dev/net/tun`"
                .to_owned(),
            Self::NoIp => "on Debian: apt-get install iproute2".to_owned(),
            Self::AlreadyUp { name, .. } => {
                format!("end them with `netbuild wan down --name {name}`, or take another --name")
            }
            Self::NotUp(name) => format!("start them with `netbuild wan up --name {name}`"),
            Self::Foreign(namespace) => {
                format!("remove it with `ip netns delete {namespace}`, or take another --name")
            }
            Self::NoSite(_) => "`netbuild wan status` lists the sites".to_owned(),
            Self::NoPrefix(name) => format!("write them as `--site {name}=172.30.1.0/24`"),
            Self::Sysctl { setting, needed, .. } => {
                format!("`sysctl -w {setting}={needed}`; a container gets it with `--sysctl`")
            }
            _ => return None,
        })
    }
}
