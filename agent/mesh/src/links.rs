//! The report of this agent's links that waits to be said.

use netbuild_proto::membership::LinkReport;
use std::time::{Duration, Instant};

/// Least time between two reports, however urgent.
pub(crate) const URGENT_GAP: Duration = Duration::from_secs(1);

/// At most one report waits, the latest.
#[derive(Debug, Default)]
pub(crate) struct Links {
    waiting: Option<Waiting>,
    said: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    links: Vec<LinkReport>,
    urgent: bool,
}

impl Links {
    /// Takes a report in place of the one that waits. An urgent one makes what replaces it urgent.
    pub(crate) fn report(&mut self, links: Vec<LinkReport>, urgent: bool) {
        let urgent = urgent || self.waiting.as_ref().is_some_and(|waiting| waiting.urgent);
        self.waiting = Some(Waiting { links, urgent });
    }

    /// The report, when it is time; `interval` is the pause between two that are not urgent.
    pub(crate) fn poll(&mut self, interval: Duration, now: Instant) -> Option<Vec<LinkReport>> {
        if self.next_timeout(interval, now)? > now {
            return None;
        }
        self.said = Some(now);
        self.waiting.take().map(|waiting| waiting.links)
    }

    /// When [`Self::poll`] has something.
    pub(crate) fn next_timeout(&self, interval: Duration, now: Instant) -> Option<Instant> {
        let waiting = self.waiting.as_ref()?;
        let gap = if waiting.urgent { URGENT_GAP.min(interval) } else { interval };
        Some(self.said.map_or(now, |said| said + gap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::peer::PeerId;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn report(rtt_us: u32) -> Vec<LinkReport> {
        let peer = PeerId([1; 32]);
        vec![LinkReport { peer, rtt_us, jitter_us: 0, loss_ppm: 0, goodput: 0, age_s: 0 }]
    }

    #[test]
    fn the_latest_report_is_said_once_in_an_interval() {
        let (mut links, now) = (Links::default(), Instant::now());
        links.report(report(1), false);
        assert_eq!(links.poll(INTERVAL, now), Some(report(1)));
        links.report(report(2), false);
        links.report(report(3), false);
        assert_eq!(links.poll(INTERVAL, now + INTERVAL / 2), None);
        assert_eq!(links.next_timeout(INTERVAL, now), Some(now + INTERVAL));
        assert_eq!(links.poll(INTERVAL, now + INTERVAL), Some(report(3)));
        assert_eq!(links.poll(INTERVAL, now + 9 * INTERVAL), None);
    }

    #[test]
    fn an_urgent_report_waits_a_second_at_most() {
        let (mut links, now) = (Links::default(), Instant::now());
        links.report(report(1), true);
        assert_eq!(links.poll(INTERVAL, now), Some(report(1)));
        links.report(report(2), true);
        links.report(report(3), false);
        assert_eq!(links.poll(INTERVAL, now + URGENT_GAP / 2), None);
        assert_eq!(links.poll(INTERVAL, now + URGENT_GAP), Some(report(3)));
    }
}
