//! What a user notices of the congestion controller, on links in memory and in virtual time.

#[path = "../examples/support/emulated.rs"]
mod emulated;
#[path = "../examples/support/tls.rs"]
mod tls;

use emulated::{Outcome, transfer};
use netbuild_core::wan::find;

fn moved(link: &str, controller: &str) -> Outcome {
    let profile = find(link).expect("the table has this link");
    transfer(profile, controller, 16 << 20).expect("the link is not cut")
}

#[test]
fn one_lost_packet_in_a_hundred_does_not_slow_a_transfer_down() {
    let [clean, lossy] = ["eu-central", "lossy"].map(|link| moved(link, "ours"));
    assert!(lossy.used > clean.used * 0.9, "{clean:?} {lossy:?}");
    assert!(lossy.used > moved("lossy", "cubic").used * 4.0, "{lossy:?}");
}

#[test]
fn others_on_the_link_are_not_kept_waiting() {
    let [ours, bbr, cubic] = ["ours", "bbr", "cubic"].map(|name| moved("us-east", name));
    assert!(ours.used >= cubic.used && ours.used >= bbr.used, "{ours:?} {cubic:?} {bbr:?}");
    assert!(ours.queue < cubic.queue && ours.queue < bbr.queue, "{ours:?} {cubic:?} {bbr:?}");
    assert!(ours.queue < 0.25, "{ours:?}");
    assert!(ours.refused <= 0.02, "{ours:?}");
}

#[test]
fn the_same_link_gives_the_same_transfer() {
    assert_eq!(moved("lossy", "ours"), moved("lossy", "ours"));
}
