//! Compares congestion controllers on links in memory and in virtual time: quinn's own and ours,
//! with the transport parameters of the engine.
//!
//! `cargo run --release -p netbuild-transfer --example congestion [MEBIBYTES]`

#[path = "support/emulated.rs"]
mod emulated;
#[path = "support/tls.rs"]
mod tls;

use netbuild_core::wan::find;
use std::io::{Write, stdout};

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mebibytes: u64 = std::env::args().nth(1).map_or(Ok(100), |text| text.parse())?;
    let mut out = stdout();
    writeln!(out, "{mebibytes} MiB over emulated links; the queue holds one product")?;
    writeln!(out, "link         controller   Mbit/s  of link  refused  mean queue")?;
    for name in ["us-east", "us-west", "eu-central", "lossy", "satellite"] {
        let profile = find(name)?;
        for controller in ["ours", "cubic", "newreno", "bbr"] {
            let outcome = match emulated::transfer(profile, controller, mebibytes << 20) {
                Ok(outcome) => outcome,
                Err(error) => {
                    writeln!(out, "{name:<12} {controller:<10} fails: {error}")?;
                    continue;
                }
            };
            let mbit = outcome.used * profile.shape.rate_bits as f64 * 1e-6;
            let [used, refused, queue] =
                [outcome.used, outcome.refused, outcome.queue].map(|part| part * 100.0);
            writeln!(
                out,
                "{name:<12} {controller:<10} {mbit:>8.1} {used:>7.1}% {refused:>7.2}% {queue:>10.1}%"
            )?;
        }
    }
    Ok(())
}
