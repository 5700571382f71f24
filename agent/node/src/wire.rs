//! Between what core knows and what goes over the wire.

use netbuild_core::{link::Report, moved::Coding};
use netbuild_proto::{data, membership::LinkReport};
use std::time::Duration;

/// A report of another agent. Its numbers were checked when it was decoded.
pub(crate) fn report(wire: &LinkReport) -> Report {
    Report {
        peer: wire.peer,
        rtt: Duration::from_micros(u64::from(wire.rtt_us)),
        jitter: Duration::from_micros(u64::from(wire.jitter_us)),
        loss: f64::from(wire.loss_ppm) / 1e6,
        goodput: (wire.goodput > 0).then_some(wire.goodput as f64),
        age: Duration::from_secs(u64::from(wire.age_s)),
    }
}

/// A report of this agent.
pub(crate) fn link_report(report: &Report) -> LinkReport {
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    LinkReport {
        peer: report.peer,
        rtt_us: micros(report.rtt),
        jitter_us: micros(report.jitter),
        loss_ppm: (report.loss * 1e6).round() as u32,
        goodput: report.goodput.map_or(0, |goodput| goodput as u64),
        age_s: u32::try_from(report.age.as_secs()).unwrap_or(u32::MAX),
    }
}

/// How something was coded, as it is told; `None` for what did not come.
pub(crate) fn coding(wire: data::Coding) -> Option<Coding> {
    match wire {
        data::Coding::Absent => None,
        data::Coding::Identity => Some(Coding::Identity),
        data::Coding::Gzip => Some(Coding::Gzip),
        data::Coding::Zstd => Some(Coding::Zstd),
        data::Coding::Delta => Some(Coding::Delta),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::peer::PeerId;

    #[test]
    fn a_report_reads_back() {
        let told = Report {
            peer: PeerId([1; 32]),
            rtt: Duration::from_micros(50_250),
            jitter: Duration::from_micros(1500),
            loss: 0.0125,
            goodput: Some(12_500_000.0),
            age: Duration::from_secs(3),
        };
        assert_eq!(report(&link_report(&told)), told);
        let unknown = Report { goodput: None, ..told };
        assert_eq!(report(&link_report(&unknown)), unknown);
    }
}
