//! Sites as ranges of addresses, for one container that routes between real networks: packets
//! from one site to another take the way through the device, all others the ordinary one.

use crate::{
    error::WanError,
    ip,
    namespaces::DEVICE_QUEUE,
    sys::{self, DEVICE, MTU},
};
use netbuild_core::wan::Layout;
use std::{fs, os::fd::OwnedFd};

/// The routing table that leads into the device, and the rules that lead to it. The numbers are
/// unlikely to be anybody else's; the rules come before the main table (32766).
const TABLE: u32 = 7777;
const RULE_ARRIVED: u32 = 7750;
const RULE_OWN: u32 = 7760;
const RULE_BETWEEN: u32 = 7777;

/// The ordered pairs of sites.
fn pairs(layout: &Layout) -> impl Iterator<Item = (usize, usize)> + '_ {
    let count = layout.sites().len();
    (0..count).flat_map(move |a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b)
}

/// What removes the rules. The device and its table go with the process.
pub(crate) fn undo(layout: &Layout) -> Vec<String> {
    let between = pairs(layout).map(|_| RULE_BETWEEN);
    let rules = [RULE_ARRIVED, RULE_OWN].into_iter().chain(between);
    rules.map(|rule| format!("rule delete pref {rule}")).collect()
}

/// Ends unless the kernel routes.
pub(crate) fn check() -> Result<(), WanError> {
    need("net.ipv4.ip_forward", "1", |value| value == "1")?;
    // Strict filters drop what comes back out of the device.
    need("net.ipv4.conf.all.rp_filter", "0", |value| value != "1")
}

fn need(
    setting: &'static str,
    needed: &'static str,
    good: impl Fn(&str) -> bool,
) -> Result<(), WanError> {
    let path = format!("/proc/sys/{}", setting.replace('.', "/"));
    let value = fs::read_to_string(&path).map_err(WanError::file("read", &path))?;
    if good(value.trim()) {
        return Ok(());
    }
    Err(WanError::Sysctl { setting, value: value.trim().to_owned(), needed })
}

/// Makes the device in the current namespace, and the rules.
pub(crate) fn create(layout: &Layout) -> Result<OwnedFd, WanError> {
    let tun = sys::open_tun()?;
    // Without the right to set it, the default of new devices holds, which is no filter.
    drop(fs::write(format!("/proc/sys/net/ipv4/conf/{DEVICE}/rp_filter"), "0"));
    let mut lines = vec![
        format!("link set {DEVICE} mtu {MTU} txqueuelen {DEVICE_QUEUE} up"),
        format!("route add default dev {DEVICE} table {TABLE}"),
        // What has come through the device must not go into it again.
        format!("rule add pref {RULE_ARRIVED} iif {DEVICE} lookup main"),
        // The router itself is at no site.
        format!("rule add pref {RULE_OWN} iif lo lookup main"),
    ];
    for (a, b) in pairs(layout) {
        let [from, to] = [a, b].map(|site| layout.sites()[site].prefix);
        lines.push(format!("rule add pref {RULE_BETWEEN} from {from} to {to} lookup {TABLE}"));
    }
    ip::batch(None, &lines)?;
    Ok(tun)
}
