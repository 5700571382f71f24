//! Blobs that are on their way in, so that two who want one do not fetch it twice.
//!
//! Nobody waits for somebody who may wait for him. An agent that has asked another one to bring a
//! blob may be asked to bring it by that very one, on behalf of a third that both have asked; and a
//! build must not wait for copying, which takes its time.

use netbuild_core::{
    digest::Digest,
    sooner::{Outlook, Pace, Speed},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::Notify;

/// For whom blobs are fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Errand {
    /// A build waits, or a person.
    Build,
    /// Another agent of this region waits.
    Neighbour,
    /// Nobody is in a hurry.
    Copy,
}

/// A blob that is being fetched.
#[derive(Debug)]
struct Flight {
    claim: u64,
    errand: Errand,
    /// Whether another agent was asked to bring it.
    delegated: bool,
    /// Bytes of the claim that are still to come until it is here.
    left: u64,
}

/// All that one caller fetches.
#[derive(Debug)]
struct Fetch {
    pace: Pace,
    /// Somebody has asked for the outlook since what is left was told.
    looked_at: bool,
    /// Blobs that nobody wants any more, and that the caller has not heard of.
    given_up: Vec<Digest>,
}

impl Errand {
    /// Whether one on this errand waits for another's flight; if not, it fetches by itself.
    fn waits_for(self, flight: &Flight) -> bool {
        match self {
            Self::Build => flight.errand != Self::Copy,
            Self::Neighbour => flight.errand != Self::Copy && !flight.delegated,
            Self::Copy => true,
        }
    }
}

/// All blobs that somebody of this process fetches now.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flying: Mutex<Flying>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Flying {
    blobs: BTreeMap<Digest, Flight>,
    fetches: BTreeMap<u64, Fetch>,
    claims: u64,
}

/// Blobs that one caller may fetch, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    flights: &'a Flights,
    number: u64,
    mine: Vec<Digest>,
    others: Vec<Digest>,
}

impl Claim<'_> {
    /// Those to fetch.
    pub(crate) fn mine(&self) -> &[Digest] {
        &self.mine
    }

    /// Those that others fetch, and that are to be waited for.
    pub(crate) fn others(&self) -> &[Digest] {
        &self.others
    }

    /// Another agent is asked to bring them, until the result is dropped.
    pub(crate) fn delegate(&self) -> Delegated<'_> {
        self.set_delegated(true);
        Delegated(self)
    }

    /// One of them is here: who waits for it need not wait for the others.
    pub(crate) fn landed(&self, blob: &Digest) {
        if self.flights.lock().end(blob, self.number) {
            self.flights.changed.notify_waiters();
        }
    }

    /// Whether somebody still waits for a blob of it.
    pub(crate) fn wants(&self, blob: &Digest) -> bool {
        let flying = self.flights.lock();
        flying.blobs.get(blob).is_some_and(|flight| flight.claim == self.number)
    }

    /// They are to come over a link of which this is believed.
    pub(crate) fn expect(&self, latency: f64, per_second: Option<f64>) {
        if let Some(fetch) = self.flights.lock().fetches.get_mut(&self.number) {
            fetch.pace.expect(latency, per_second);
        }
    }

    fn set_delegated(&self, delegated: bool) {
        let mut flying = self.flights.lock();
        for blob in &self.mine {
            if let Some(flight) = flying.blobs.get_mut(blob).filter(|f| f.claim == self.number) {
                flight.delegated = delegated;
            }
        }
        drop(flying);
        self.flights.changed.notify_waiters();
    }
}

/// Hears how a fetch goes, and says what became of those who wait for it.
pub(crate) trait Course: Sync {
    /// Something came, at this speed; `left` tells how many bytes are still to come until each blob is here.
    fn moving(&self, _speed: Speed, _left: &dyn Fn() -> Vec<(Digest, u64)>) {}

    /// Something may come as a patch.
    fn patched(&self) {}

    /// What nobody wants any more, each blob once.
    fn given_up(&self) -> Vec<Digest> {
        Vec::new()
    }
}

/// Nobody waits.
impl Course for () {}

impl Course for Claim<'_> {
    fn moving(&self, speed: Speed, left: &dyn Fn() -> Vec<(Digest, u64)>) {
        let looked_at = self.flights.lock().fetches.get_mut(&self.number).is_some_and(|fetch| {
            fetch.pace.handle_progress(speed, Instant::now());
            std::mem::take(&mut fetch.looked_at)
        });
        // Of a hundred thousand blobs it takes its time.
        if !looked_at {
            return;
        }
        let left = left();
        let mut flying = self.flights.lock();
        for (blob, left) in left {
            if let Some(flight) = flying.blobs.get_mut(&blob).filter(|f| f.claim == self.number) {
                flight.left = left;
            }
        }
    }

    fn patched(&self) {
        if let Some(fetch) = self.flights.lock().fetches.get_mut(&self.number) {
            fetch.pace.handle_patched();
        }
    }

    fn given_up(&self) -> Vec<Digest> {
        let mut flying = self.flights.lock();
        let fetch = flying.fetches.get_mut(&self.number);
        fetch.map(|fetch| std::mem::take(&mut fetch.given_up)).unwrap_or_default()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut flying = self.flights.lock();
        for blob in &self.mine {
            flying.end(blob, self.number);
        }
        flying.fetches.remove(&self.number);
        drop(flying);
        self.flights.changed.notify_waiters();
    }
}

impl Flying {
    /// Ends the flight of a claim, unless somebody in more of a hurry has taken it over.
    fn end(&mut self, blob: &Digest, claim: u64) -> bool {
        let is_its = self.blobs.get(blob).is_some_and(|flight| flight.claim == claim);
        is_its && self.blobs.remove(blob).is_some()
    }
}

/// See [`Claim::delegate`].
#[derive(Debug)]
pub(crate) struct Delegated<'a>(&'a Claim<'a>);

impl Drop for Delegated<'_> {
    fn drop(&mut self) {
        self.0.set_delegated(false);
    }
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, Flying> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims those of `blobs` that nobody fetches for whom one on this errand waits.
    pub(crate) fn claim(&self, blobs: &[Digest], errand: Errand) -> Claim<'_> {
        let mut flying = self.lock();
        flying.claims += 1;
        let number = flying.claims;
        let (mut mine, mut others, mut left) = (Vec::new(), Vec::new(), 0_u64);
        for blob in blobs {
            match flying.blobs.get(blob) {
                Some(flight) if flight.claim == number => {}
                Some(flight) if errand.waits_for(flight) => others.push(*blob),
                _ => {
                    left = left.saturating_add(blob.size);
                    let flight = Flight { claim: number, errand, delegated: false, left };
                    flying.blobs.insert(*blob, flight);
                    mine.push(*blob);
                }
            }
        }
        let pace = Pace::new(Instant::now());
        let fetch = Fetch { pace, looked_at: false, given_up: Vec::new() };
        flying.fetches.insert(number, fetch);
        Claim { flights: self, number, mine, others }
    }

    /// What is to be expected of those of `blobs` that are on their way; `None` when none is.
    pub(crate) fn outlook(&self, blobs: &[Digest]) -> Option<Outlook> {
        let (mut flying, now) = (self.lock(), Instant::now());
        let Flying { blobs: flights, fetches, .. } = &mut *flying;
        let moving = fetches.values().filter(|fetch| fetch.pace.is_moving()).count();
        let of = |blob: &Digest| {
            let flight = flights.get(blob)?;
            let fetch = fetches.get_mut(&flight.claim)?;
            fetch.looked_at = true;
            let others = moving - usize::from(fetch.pace.is_moving());
            Some(fetch.pace.outlook(flight.left, others, now))
        };
        blobs.iter().filter_map(of).reduce(Outlook::and)
    }

    /// One who waited for these does so no more: whoever fetches them may leave them out, and another one who
    /// wants them fetches them anew.
    pub(crate) fn give_up(&self, blobs: &[Digest]) {
        let mut flying = self.lock();
        let Flying { blobs: flights, fetches, .. } = &mut *flying;
        for blob in blobs {
            let Some(flight) = flights.remove(blob) else { continue };
            if let Some(fetch) = fetches.get_mut(&flight.claim) {
                fetch.given_up.push(*blob);
            }
        }
        drop(flying);
        self.changed.notify_waiters();
    }

    /// Returns once each of `blobs` was seen not to be fetched by anybody for whom one on this errand
    /// waits. The caller must hold no claim: two that wait for one another's would wait for ever.
    pub(crate) async fn landed(&self, blobs: &[Digest], errand: Errand) {
        let mut left = blobs;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that a landing in between is not missed.
            changed.as_mut().enable();
            {
                let flying = self.lock();
                // Each is looked at until it has landed, and not again.
                while let [first, rest @ ..] = left {
                    if flying.blobs.get(first).is_some_and(|flight| errand.waits_for(flight)) {
                        break;
                    }
                    left = rest;
                }
                if left.is_empty() {
                    return;
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_blob_is_claimed_once_and_waited_for() {
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        let flights = Flights::default();
        let first = flights.claim(&[a], Errand::Build);
        let second = flights.claim(&[a, b, b], Errand::Build);
        assert_eq!((second.mine(), second.others()), (&[b][..], &[a][..]));
        drop(second);
        let wanted = [a];
        let waiting = flights.landed(&wanted, Errand::Build);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        waiting.await;
        assert_eq!(flights.claim(&[a, b], Errand::Build).others(), []);
    }

    #[tokio::test]
    async fn who_waits_for_one_of_many_blobs_does_not_wait_for_the_others() {
        let [a, b, c] = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
        let flights = Flights::default();
        let all = flights.claim(&[a, b, c], Errand::Build);
        let (one, both) = ([b], [a, b]);
        let (for_one, for_both) =
            (flights.landed(&one, Errand::Build), flights.landed(&both, Errand::Build));
        tokio::pin!(for_one, for_both);
        assert!(for_one.as_mut().now_or_never().is_none());
        assert!(for_both.as_mut().now_or_never().is_none());
        all.landed(&b);
        for_one.await;
        assert!(for_both.as_mut().now_or_never().is_none());
        all.landed(&a);
        for_both.await;
        assert_eq!(flights.claim(&[a, b, c], Errand::Build).others(), [c]);
    }

    #[tokio::test]
    async fn what_is_given_up_is_left_out_and_fetched_anew_by_others_who_want_it() {
        let [a, b, c] = [[1; 100].as_slice(), &[2; 50], &[3; 10]].map(Digest::of);
        let flights = Flights::default();
        let all = flights.claim(&[a, b, c], Errand::Build);
        all.expect(0.0, Some(4.0));
        let left = |blob| {
            let remaining = flights.outlook(&[blob]).unwrap().remaining.unwrap();
            (remaining.as_secs_f64() * 16.0).round()
        };
        assert_eq!([left(a), left(b), left(c)], [100.0, 150.0, 160.0]);
        let other = [b];
        let waiting = flights.landed(&other, Errand::Build);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());

        flights.give_up(&[b]);
        waiting.await;
        assert_eq!((all.given_up(), all.given_up()), (vec![b], vec![]));
        assert_eq!((all.wants(&a), all.wants(&b)), (true, false));
        assert_eq!(flights.outlook(&[b]), None);
        let speed = Speed { per_second: 1000.0, swells: 1.0 };
        all.moving(speed, &|| vec![(a, 70), (c, 80)]);
        all.moving(speed, &|| panic!("nobody has looked since"));
        assert_eq!(flights.claim(&[b], Errand::Build).mine(), [b]);
        // It comes all the same.
        all.landed(&b);
        let unknown = flights.outlook(&[a, c]).unwrap();
        assert_eq!(unknown.remaining, None, "a moment is no speed");
        all.landed(&a);
        assert_eq!(flights.outlook(&[a]), None);
    }

    #[tokio::test]
    async fn a_build_does_not_wait_for_copying_and_copying_waits_for_it() {
        let blobs = [Digest::of(b"a")];
        let flights = Flights::default();
        let copy = flights.claim(&blobs, Errand::Copy);
        let build = flights.claim(&blobs, Errand::Build);
        assert_eq!((build.mine(), build.others()), (&blobs[..], &[][..]));
        // The one that was overtaken does not end the other's flight.
        drop(copy);
        assert_eq!(flights.claim(&blobs, Errand::Copy).others(), blobs);
        drop(build);
        assert_eq!(flights.claim(&blobs, Errand::Copy).mine(), blobs);
    }

    #[tokio::test]
    async fn one_who_brings_does_not_wait_for_one_who_waits_for_a_neighbour() {
        let blobs = [Digest::of(b"a")];
        let flights = Flights::default();
        let build = flights.claim(&blobs, Errand::Build);
        assert_eq!(flights.claim(&blobs, Errand::Neighbour).others(), blobs);
        let waiting = flights.landed(&blobs, Errand::Neighbour);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        let delegated = build.delegate();
        waiting.await;
        let bring = flights.claim(&blobs, Errand::Neighbour);
        assert_eq!(bring.mine(), blobs);
        drop((delegated, bring));
        assert_eq!(flights.claim(&blobs, Errand::Neighbour).mine(), blobs, "it was taken over");
    }
}
