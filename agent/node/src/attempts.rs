//! Asking the sources of a plan: one after the other, or a team of them, and another beside one that
//! is late.

use crate::{
    fault::{SourceError, over_of_source},
    shared::Tier,
    view::{View, Whom},
};
use futures::{
    StreamExt as _,
    stream::{self, FuturesUnordered, LocalBoxStream},
};
use netbuild_core::{
    cache::CacheError,
    fallback::Fallback,
    health::Fault,
    peers::Over,
    plan::{Plan, Reason, Step, Who},
    score::{goodput, patience},
    spread::Pace,
};
use netbuild_transfer::{PROGRESS_TIMEOUT, Patience};
use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// Sources beyond its team that may be asked at once for one thing, as others are late.
const MAX_BESIDE: usize = 1;
/// Shortest time after which a source is late: a busy machine answers no sooner.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);
/// Longest time without a sign of life before another source is asked as well.
const MOST_PATIENCE: Duration = Duration::from_millis(600);
/// Shortest time without a byte after which a source counts as gone: on a busy machine less is
/// ordinary. Whoever can ask another has done so by then.
const LEAST_SILENCE: Duration = Duration::from_millis(1500);
/// A time that no attempt is going to last.
const NEVER: Duration = Duration::from_secs(1 << 32);
/// How late the next part of a transfer may be, in terms of its expected time.
const LENIENCE: f64 = 1.5;
/// Longest time that one part of a transfer is granted on top: a chunk of 2 MiB at 8 Mbit/s.
const MOST_FOR_A_PART: Duration = Duration::from_secs(3);
/// How often deadlines that move are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What a source said.
#[derive(Debug)]
pub(crate) enum Told<T> {
    /// All that was wanted.
    Got(T),
    /// It lacks it, or a part of it.
    Missing,
}

/// A source, and how it is reached.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    Peer(Whom),
    Tier(Arc<Tier>),
}

impl Reach {
    fn who(&self) -> Who {
        match self {
            Self::Peer(whom) => Who::Peer(whom.peer),
            Self::Tier(tier) => Who::Tier(tier.id),
        }
    }
}

/// What is known of the sources, and how they are reached: `reach` says `None` of one that has gone.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) view: &'a View,
    pub(crate) reach: &'a dyn Fn(&Who) -> Option<Reach>,
}

/// One attempt at one source.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) to: Reach,
    /// What is believed of the link to it.
    pub(crate) pace: Pace,
    /// Bytes per second that the link gives, if that was ever measured.
    pub(crate) goodput: Option<f64>,
    /// Whether it is still fetching itself, and gives only what it has by now.
    pub(crate) arriving: bool,
    /// Whether it is known to have what is wanted.
    pub(crate) sure: bool,
    silence: Duration,
    due: Rc<Cell<Instant>>,
    bytes: Rc<Cell<u64>>,
}

impl Trial {
    /// An attempt that nobody waits for.
    #[cfg(test)]
    pub(crate) fn alone(whom: Whom) -> Self {
        Self {
            to: Reach::Peer(whom),
            pace: Pace { rtt: LEAST_PATIENCE, goodput: 1e6, patience: MOST_PATIENCE, alone: true },
            goodput: None,
            arriving: false,
            sure: true,
            silence: PROGRESS_TIMEOUT,
            due: Rc::new(Cell::new(Instant::now())),
            bytes: Rc::default(),
        }
    }

    /// How long the source may say nothing before it counts as gone.
    pub(crate) fn silence(&self) -> Patience {
        Patience { first: self.silence, between: self.silence }
    }

    /// The source shows a sign of life; the next one, after `bytes` more, is due in its time.
    pub(crate) fn alive(&self, bytes: u64) {
        let part = Duration::try_from_secs_f64(LENIENCE * bytes as f64 / self.pace.goodput);
        let part = part.unwrap_or(MOST_FOR_A_PART).min(MOST_FOR_A_PART);
        self.due.set(Instant::now() + self.pace.patience + part);
    }

    /// The source is owed nothing and owes nothing: it was asked for all that it is to give for now.
    pub(crate) fn rests(&self) {
        self.due.set(Instant::now() + NEVER);
    }

    /// Payload bytes came.
    pub(crate) fn count(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }
}

/// What became of one source of a plan.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Tried {
    /// Which one it was of those that were asked, from 0.
    pub(crate) number: usize,
    pub(crate) step: Step,
    pub(crate) began: Instant,
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
    pub(crate) outcome: Outcome,
}

/// How an attempt ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Fetched,
    Missing,
    Failed(String),
    /// Another source was faster.
    Late,
    Cancelled,
}

/// A request under way, as the view counts it. Dropped without an end, it says nothing about the peer.
pub(crate) struct Asked<'a> {
    view: &'a View,
    who: Who,
    over: Over,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(view: &'a View, who: Who) -> Self {
        view.asked(who);
        Self { view, who, over: Over::Dropped }
    }

    /// It ended like this.
    pub(crate) fn ends(mut self, over: Over) {
        self.over = over;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.view.over(self.who, self.over);
    }
}

/// An attempt that runs.
struct Running<'a> {
    at: usize,
    number: usize,
    began: Instant,
    late: bool,
    /// Whether it turned up later, and is not counted among the team.
    joined: bool,
    trial: Trial,
    asked: Asked<'a>,
}

impl Running<'_> {
    fn ends(self, plan: &Plan, outcome: Outcome, over: Over, log: &mut Vec<Tried>) {
        self.asked.ends(over);
        log.push(Tried {
            number: self.number,
            step: plan.steps[self.at].clone(),
            began: self.began,
            seconds: self.began.elapsed().as_secs_f64(),
            bytes: self.trial.bytes.get(),
            outcome,
        });
    }
}

/// How many sources are asked at once, and who comes to them.
pub(crate) struct Team<'a> {
    /// How many.
    pub(crate) size: usize,
    /// Whether another is asked beside one that is late against its own history.
    pub(crate) hedge: bool,
    /// Who turns up while the others are asked.
    pub(crate) joining: LocalBoxStream<'a, Step>,
}

impl Team<'_> {
    /// One after the other, and nobody turns up.
    pub(crate) fn of_one(hedge: bool) -> Self {
        Self { size: 1, hedge, joining: stream::pending().boxed_local() }
    }
}

/// Asks the sources of `plan` in the order of `fallback`, a team of them at once, until all is there.
/// Those who turn up are asked as well, at once, and become steps of the plan. `log` says what became
/// of each.
///
/// # Errors
/// When this agent's own store fails; what sources do wrong is no error.
pub(crate) async fn ask<T, F, Fut>(
    sources: Sources<'_>,
    plan: &mut Plan,
    mut fallback: Fallback,
    Team { size, hedge, joining }: Team<'_>,
    log: &mut Vec<Tried>,
    start: F,
) -> Result<Option<T>, CacheError>
where
    F: Fn(Trial) -> Fut,
    Fut: Future<Output = Result<Result<Told<T>, SourceError>, CacheError>>,
{
    let view = sources.view;
    // Also of a plan without any source it has to be found out that nobody is left.
    let team = size.max(1);
    let mut joining = joining;
    let run = |trial, number: usize| {
        let answer = start(trial);
        async move { (number, answer.await) }
    };
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut answers = FuturesUnordered::new();
    let mut count = 0;
    let result = loop {
        let late = running.iter().filter(|attempt| attempt.late).count();
        let joined = running.iter().filter(|attempt| attempt.joined).count();
        let wanted = running.len() - joined < team + late.min(MAX_BESIDE);
        if wanted && (running.is_empty() || team > 1 || hedge) {
            let busy = |step: usize| running.iter().any(|attempt| attempt.at == step);
            let next = fallback.next(&busy);
            if next.is_none() && running.is_empty() {
                break Ok(None);
            }
            // One that has to wait is no help beside those that run.
            let next = next.filter(|next| running.is_empty() || next.pause.is_zero());
            if let Some(next) = next {
                sleep(next.pause).await;
                let Some(attempt) = begin(sources, plan, next.step, count, team == 1) else {
                    fallback.handle_missing(next.step);
                    continue;
                };
                answers.push(run(attempt.trial.clone(), count));
                running.push(attempt);
                count += 1;
                continue;
            }
        }
        let answer = tokio::select! {
            Some(answer) = answers.next() => answer,
            Some(step) = joining.next() => {
                plan.steps.push(step);
                fallback.handle_joined();
                if let Some(attempt) = begin(sources, plan, plan.steps.len() - 1, count, false) {
                    answers.push(run(attempt.trial.clone(), count));
                    running.push(Running { joined: true, ..attempt });
                    count += 1;
                }
                continue;
            }
            number = first_late(&running) => {
                if let Some(attempt) = running.iter_mut().find(|a| a.number == number) {
                    attempt.late = true;
                    tracing::debug!(source = ?attempt.trial.to.who(), "late");
                }
                continue;
            }
        };
        let (number, answer) = answer;
        let Some(at) = running.iter().position(|attempt| attempt.number == number) else {
            continue;
        };
        let attempt = running.remove(at);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => break Err(error),
        };
        let over = over_of_source(&answer);
        let step = attempt.at;
        match answer {
            Ok(Told::Got(got)) => {
                attempt.ends(plan, Outcome::Fetched, over, log);
                break Ok(Some(got));
            }
            Ok(Told::Missing) => {
                fallback.handle_missing(step);
                attempt.ends(plan, Outcome::Missing, over, log);
            }
            Err(error) => {
                tracing::info!(region = %plan.steps[step].region, "{error}; going on without it");
                let outcome = Outcome::Failed(error.to_string());
                if error.who() == attempt.trial.to.who() {
                    fallback.handle_failed(step);
                    attempt.ends(plan, outcome, over, log);
                } else {
                    // What this source brought showed what another one had done. That one is not
                    // asked again; this one is, as it did nothing wrong.
                    Asked::new(view, error.who()).ends(over);
                    if let Some(step) = plan.steps.iter().position(|s| s.who == error.who()) {
                        fallback.handle_missing(step);
                    }
                    attempt.ends(plan, outcome, Over::Answered, log);
                }
            }
        }
    };
    drop(answers);
    for attempt in running {
        // One that never said a word while another brought everything is not asked again at once.
        let silent = attempt.late && attempt.trial.bytes.get() == 0;
        let over = if silent { Over::Failed(Fault::Unavailable) } else { Over::Dropped };
        let outcome = if attempt.late { Outcome::Late } else { Outcome::Cancelled };
        attempt.ends(plan, outcome, over, log);
    }
    // As they were asked, not as they ended.
    log.sort_by_key(|tried| tried.number);
    result
}

fn begin<'a>(
    sources: Sources<'a>,
    plan: &Plan,
    at: usize,
    number: usize,
    alone: bool,
) -> Option<Running<'a>> {
    let step = &plan.steps[at];
    let to = (sources.reach)(&step.who)?;
    let patience = patience(&step.link, LEAST_PATIENCE, MOST_PATIENCE);
    let began = Instant::now();
    let pace = Pace {
        rtt: step.link.rtt.unwrap_or_default(),
        goodput: goodput(&step.link).max(1.0),
        patience,
        alone,
    };
    let trial = Trial {
        to,
        pace,
        goodput: step.link.goodput,
        arriving: step.reason == Reason::Arriving,
        sure: step.holds == Some(true) || step.reason == Reason::Joined,
        silence: (patience * 4).clamp(LEAST_SILENCE, PROGRESS_TIMEOUT),
        due: Rc::new(Cell::new(began + patience)),
        bytes: Rc::default(),
    };
    let asked = Asked::new(sources.view, step.who);
    Some(Running { at, number, began, late: false, joined: false, trial, asked })
}

/// Waits until an attempt that is not known to be late is; says which.
async fn first_late(running: &[Running<'_>]) -> usize {
    loop {
        let now = Instant::now();
        let waited_for = || running.iter().filter(|attempt| !attempt.late);
        if let Some(late) = waited_for().find(|attempt| attempt.trial.due.get() <= now) {
            return late.number;
        }
        let next = waited_for().map(|attempt| attempt.trial.due.get() - now).min();
        match next {
            Some(wait) => sleep(wait.min(LOOK)).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{health::Health, link::Sample, peer::PeerId, plan::Policy, tiers::Tiers};
    use netbuild_mesh::Event;
    use netbuild_proto::membership::Presence;
    use netbuild_transfer::FetchError;
    use std::cell::RefCell;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);
    const C: PeerId = PeerId([3; 32]);

    /// Three peers at 10, 20 and 30 ms.
    fn view() -> View {
        let view = View::new(Policy::default(), String::new(), Tiers::default(), false);
        for (peer, ms) in [(A, 10), (B, 20), (C, 30)] {
            let presence = Presence {
                region: String::new(),
                mesh_addresses: Vec::new(),
                data_port: 0,
                started: 1,
            };
            view.handle(Event::Joined { peer, presence, addresses: Vec::new(), connected: true });
            let rtt = Sample::Rtt(Duration::from_millis(ms));
            view.peers(|peers, now| peers.handle_sample(&peer, rtt, now));
        }
        view
    }

    fn reach(view: &View) -> impl Fn(&Who) -> Option<Reach> {
        move |who| view.whom(&who.peer()?).map(Reach::Peer)
    }

    fn peer_of(trial: &Trial) -> PeerId {
        trial.to.who().peer().unwrap()
    }

    /// Asks all three; says who gave it, and what became of each.
    async fn asked<Fut>(
        view: &View,
        hedge: bool,
        start: impl Fn(Trial) -> Fut,
    ) -> (Option<PeerId>, Vec<(PeerId, Outcome)>)
    where
        Fut: Future<Output = Result<Result<Told<PeerId>, SourceError>, CacheError>>,
    {
        let mut plan = view.plan(1000, &[A, B, C].map(Who::Peer).into(), &|_, _| true, false);
        let fallback = Fallback::adaptive(plan.steps.len(), 1, 0.5);
        let mut log = Vec::new();
        let team = Team::of_one(hedge);
        let got =
            ask(Sources { view, reach: &reach(view) }, &mut plan, fallback, team, &mut log, start)
                .await
                .unwrap();
        (
            got,
            log.into_iter().map(|tried| (tried.step.who.peer().unwrap(), tried.outcome)).collect(),
        )
    }

    fn health(view: &View, peer: PeerId) -> Health {
        view.peers(|peers, now| peers.get(&peer).unwrap().health(now))
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_is_left_for_the_next_at_once() {
        let view = view();
        let began = Instant::now();
        let (got, log) = asked(&view, true, |trial| async move {
            let peer = peer_of(&trial);
            Ok(match peer {
                A => Err(FetchError::Closed { peer }.into()),
                B => Ok(Told::Missing),
                _ => Ok(Told::Got(peer)),
            })
        })
        .await;
        let failed = Outcome::Failed(FetchError::Closed { peer: A }.to_string());
        assert_eq!(got, Some(C));
        assert_eq!(log, [(A, failed), (B, Outcome::Missing), (C, Outcome::Fetched)]);
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(matches!(health(&view, A), Health::Open(_)));
        assert_eq!(health(&view, B), Health::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn another_is_asked_beside_one_that_is_late() {
        let view = view();
        let began = Instant::now();
        let (got, log) = asked(&view, true, |trial| async move {
            if peer_of(&trial) == A {
                std::future::pending::<()>().await;
            }
            trial.count(1);
            Ok(Ok(Told::Got(peer_of(&trial))))
        })
        .await;
        assert_eq!(got, Some(B));
        assert_eq!(log, [(A, Outcome::Late), (B, Outcome::Fetched)]);
        assert!(began.elapsed() <= MOST_PATIENCE, "{:?}", began.elapsed());
        assert!(matches!(health(&view, A), Health::Open(_)), "not asked first again at once");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_shows_life_is_not_late() {
        let view = view();
        let (got, log) = asked(&view, true, |trial| async move {
            for _ in 0..100 {
                trial.alive(0);
                sleep(LEAST_PATIENCE).await;
            }
            Ok(Ok(Told::Got(peer_of(&trial))))
        })
        .await;
        assert_eq!((got, log), (Some(A), vec![(A, Outcome::Fetched)]));
    }

    #[tokio::test(start_paused = true)]
    async fn without_hedging_a_late_one_is_waited_for() {
        let view = view();
        let (got, log) = asked(&view, false, |trial| async move {
            sleep(MOST_PATIENCE * 3).await;
            Ok(Ok(Told::Got(peer_of(&trial))))
        })
        .await;
        assert_eq!((got, log), (Some(A), vec![(A, Outcome::Fetched)]));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_late_the_first_answer_counts_and_two_are_under_way() {
        let view = view();
        let (got, log) = asked(&view, true, |trial| async move {
            let last = if peer_of(&trial) == B { 1 } else { 2 };
            sleep(MOST_PATIENCE * 4 * last).await;
            Ok(Ok(Told::Got(peer_of(&trial))))
        })
        .await;
        assert_eq!(got, Some(B));
        assert_eq!(log, [(A, Outcome::Late), (B, Outcome::Fetched)]);
        let queues: Vec<u32> = view.peers(|peers, _| peers.iter().map(|(_, p)| p.queue).collect());
        assert_eq!(queues, [0, 0, 0], "nothing is under way any more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_has_is_nobodys_fault() {
        let view = view();
        let (got, log) = asked(&view, true, |_| async { Ok(Ok(Told::Missing)) }).await;
        assert_eq!((got, log.len()), (None, 3));
        assert_eq!(health(&view, A), Health::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_shows_what_another_did_is_asked_again_and_the_other_is_not() {
        let view = view();
        // A request to A from elsewhere, which all this must not count as over.
        view.asked(Who::Peer(A));
        let times = Cell::new(0);
        let (got, log) = asked(&view, true, |trial| {
            let (peer, time) = (peer_of(&trial), times.get());
            times.set(time + 1);
            async move {
                let why = "a manifest that is not of its blob".to_owned();
                match (peer, time) {
                    (A, _) => std::future::pending().await,
                    (_, 1) => Ok(Err(FetchError::Malformed { peer: A, why }.into())),
                    _ => Ok(Ok(Told::Got(peer))),
                }
            }
        })
        .await;
        assert_eq!(got, Some(B));
        assert_eq!(log.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [A, B, B]);
        assert_eq!(health(&view, B), Health::Closed);
        assert!(matches!(health(&view, A), Health::Open(_)));
        assert_eq!(view.peers(|peers, _| peers.get(&A).unwrap().queue), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_team_is_asked_at_once_and_one_that_fails_is_replaced() {
        let view = view();
        let mut plan = view.plan(1000, &[A, B, C].map(Who::Peer).into(), &|_, _| true, false);
        let fallback = Fallback::adaptive(plan.steps.len(), 1, 0.5);
        let (mut log, began) = (Vec::new(), RefCell::new(Vec::new()));
        let start = |trial: Trial| {
            let peer = peer_of(&trial);
            began.borrow_mut().push((peer, Instant::now()));
            trial.rests();
            async move {
                match peer {
                    A => std::future::pending().await,
                    B => {
                        sleep(MOST_PATIENCE * 5).await;
                        Ok(Err(FetchError::Closed { peer }.into()))
                    }
                    _ => Ok(Ok(Told::Got(peer))),
                }
            }
        };
        let began_at = Instant::now();
        let team = Team { size: 2, ..Team::of_one(true) };
        let got = ask(
            Sources { view: &view, reach: &reach(&view) },
            &mut plan,
            fallback,
            team,
            &mut log,
            start,
        )
        .await
        .unwrap();
        assert_eq!(got, Some(C));
        let later = began_at + MOST_PATIENCE * 5;
        assert_eq!(began.into_inner(), [(A, began_at), (B, began_at), (C, later)]);
        assert_eq!(log[0].outcome, Outcome::Cancelled, "it rested, and was not late");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_turns_up_is_asked_at_once_beside_the_others() {
        let view = view();
        let mut plan = view.plan(1000, &[A, B].map(Who::Peer).into(), &|peer, _| *peer != C, false);
        let joins = view
            .plan(1000, &[C].map(Who::Peer).into(), &|peer, _| *peer == C, false)
            .steps
            .remove(0);
        let later = Duration::from_secs(2);
        let joining = stream::once(async move {
            sleep(later).await;
            Step { reason: Reason::Joined, ..joins }
        });
        let joining = joining.chain(stream::pending()).boxed_local();
        let team = Team { size: 1, hedge: false, joining };
        let fallback = Fallback::adaptive(plan.steps.len(), 1, 0.5);
        let (mut log, began) = (Vec::new(), Instant::now());
        let start = |trial: Trial| async move {
            match peer_of(&trial) {
                C => Ok(Ok(Told::Got(C))),
                _ => std::future::pending().await,
            }
        };
        let got = ask(
            Sources { view: &view, reach: &reach(&view) },
            &mut plan,
            fallback,
            team,
            &mut log,
            start,
        )
        .await
        .unwrap();
        assert_eq!((got, began.elapsed()), (Some(C), later));
        let of: Vec<_> =
            log.iter().map(|tried| (tried.step.who.peer().unwrap(), tried.step.reason)).collect();
        assert_eq!(of, [(A, Reason::Score), (C, Reason::Joined)]);
    }
}
