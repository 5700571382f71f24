//! The side that asks.

use super::{
    BadMessage, Id, Keyed, LEAF, MAX_LISTED, Message,
    range::Range,
    respond::fingerprints,
    split_bits,
    wire::{Content, Entry, Head, Writer, read},
};
use crate::ledger::{Item, Ledger};
use std::collections::{BTreeMap, HashSet, VecDeque};

/// Most records that one session finds on either side, about 10 MB. The next session finds others.
pub const MAX_DIFFERENCE: usize = 200_000;
/// Most round trips of a session: [`MAX_DIFFERENCE`] records in full messages take 75, and ranges
/// end after 64 steps.
pub const MAX_ROUNDS: u32 = 256;
/// Most ranges that one message asks about. What is found is told before more is asked, so that few
/// ranges wait.
const MAX_QUERIES: usize = 8192;
/// Most ranges that wait to be asked about, about 15 MB. What is beyond is for the next session.
const MAX_PENDING: usize = 1 << 18;
/// Least ranges to ask about after an answer that left some out.
const MIN_QUERIES: usize = 16;

/// What a session does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this, and hand the answer to [`Session::handle`].
    Send(Message),
    /// The session is over.
    Done(Difference),
}

/// In what two agents differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// What the other has and this agent has not, in this version.
    pub theirs: Vec<Item>,
    /// What this agent has and the other has not, in this version.
    pub ours: Vec<Item>,
    /// Whether the session looked everywhere. If not, a bound was met, and another session goes on.
    pub complete: bool,
}

/// What is to be asked about a range.
#[derive(Clone, Debug)]
enum Ask {
    /// Whether it is equal.
    Compare,
    /// These items in full.
    Want(Vec<Id>),
}

/// One exchange with one agent.
#[derive(Clone, Debug)]
pub struct Session {
    nonce: u64,
    keyed: Keyed,
    /// Where to begin. Another place each time, so that records which are found each time and never
    /// taken do not keep those behind them from being found.
    origin: u64,
    /// Ranges to ask about, by their start. They do not overlap.
    pending: BTreeMap<u64, (Range, Ask)>,
    /// What the last message asked about.
    sent: Vec<Range>,
    /// Most ranges to ask about in the next message.
    queries: usize,
    rounds: u32,
    found: Difference,
}

impl Session {
    /// Starts an exchange. `nonce` must be random: it decides which differences stay hidden.
    pub fn start(ledger: &Ledger, nonce: u64) -> (Self, Message) {
        let mut session = Self {
            nonce,
            keyed: Keyed::new(nonce),
            origin: nonce.rotate_left(32),
            pending: [(0, (Range::WHOLE, Ask::Compare))].into(),
            sent: Vec::new(),
            queries: MAX_QUERIES,
            rounds: 0,
            found: Difference { complete: true, ..Difference::default() },
        };
        let root = session.keyed.root(Range::WHOLE.summary(ledger));
        let message = session.ask(ledger, Head::Hello { nonce, root });
        (session, message)
    }

    /// Round trips so far.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Takes what was found since the last call, for those who do not wait for the end.
    pub fn take_found(&mut self) -> Difference {
        let complete = self.found.complete;
        std::mem::replace(&mut self.found, Difference { complete, ..Difference::default() })
    }

    /// Takes the answer to the last message. After an error or [`Step::Done`] the session is over.
    pub fn handle(&mut self, ledger: &Ledger, answer: &Message) -> Result<Step, BadMessage> {
        let (head, entries) = read(answer)?;
        let Head::Answer { answered } = head else { return Err(BadMessage("no answer")) };
        let answered = answered as usize;
        if answered > self.sent.len() {
            return Err(BadMessage("answers more than was asked"));
        }
        self.rounds += 1;
        self.queries = if answered < self.sent.len() {
            // The rest was asked in vain; the next answer will hold about as much as this one.
            (answered * 2).max(MIN_QUERIES)
        } else {
            MAX_QUERIES
        };
        let sent = std::mem::take(&mut self.sent);
        let mut asked: VecDeque<(Range, Ask)> =
            sent[..answered].iter().filter_map(|range| self.pending.remove(&range.start)).collect();
        for entry in entries {
            while asked.front().is_some_and(|(range, _)| !range.contains(entry.range)) {
                asked.pop_front();
            }
            let Some((_, ask)) = asked.front() else {
                return Err(BadMessage("answers nothing asked"));
            };
            self.hear(ledger, ask, entry)?;
        }
        Ok(self.go_on(ledger, answered))
    }

    fn hear(&mut self, ledger: &Ledger, ask: &Ask, entry: Entry) -> Result<(), BadMessage> {
        let Entry { range, content } = entry;
        match (ask, content) {
            (Ask::Compare, Content::Fingerprints { bits, values }) => {
                for (part, theirs) in range.parts(bits).zip(values) {
                    let ours = self.keyed.fingerprint(part.summary(ledger));
                    if theirs == 0 && ours != 0 {
                        self.add_ours(part.items(ledger));
                    } else if theirs != ours {
                        self.later(part, Ask::Compare);
                    }
                }
            }
            (Ask::Compare, Content::Ids(ids)) => {
                let mut unknown: HashSet<Id> = ids.iter().copied().collect();
                let keyed = self.keyed.clone();
                self.add_ours(range.items(ledger).filter(|item| !unknown.remove(&keyed.id(item))));
                if !unknown.is_empty() {
                    self.later(range, Ask::Want(unknown.into_iter().collect()));
                }
            }
            (_, Content::Items { items, lacks }) => {
                let new = items.into_iter().filter(|item| ledger.have(&item.key) != Some(*item));
                let room = MAX_DIFFERENCE.saturating_sub(self.found.theirs.len());
                self.found.theirs.extend(new.take(room));
                if !lacks.is_empty() {
                    let lacks: HashSet<Id> = lacks.into_iter().collect();
                    let keyed = self.keyed.clone();
                    let listed = range.items(ledger).take(MAX_LISTED);
                    self.add_ours(listed.filter(|item| lacks.contains(&keyed.id(item))));
                }
            }
            (Ask::Want(_), Content::Fingerprints { .. } | Content::Ids(_))
            | (Ask::Compare, Content::Want(_))
            | (Ask::Want(_), Content::Want(_)) => {
                return Err(BadMessage("not what was asked for"));
            }
        }
        Ok(())
    }

    fn add_ours(&mut self, items: impl Iterator<Item = Item>) {
        let room = MAX_DIFFERENCE.saturating_sub(self.found.ours.len());
        self.found.ours.extend(items.take(room));
    }

    fn later(&mut self, range: Range, ask: Ask) {
        if self.pending.len() < MAX_PENDING {
            self.pending.insert(range.start, (range, ask));
        } else {
            self.found.complete = false;
        }
    }

    fn go_on(&mut self, ledger: &Ledger, answered: usize) -> Step {
        let full = self.found.theirs.len().max(self.found.ours.len()) >= MAX_DIFFERENCE;
        let over = full || answered == 0 || self.rounds >= MAX_ROUNDS;
        if over || self.pending.is_empty() {
            self.found.complete &= !full && self.pending.is_empty();
            self.pending.clear();
            return Step::Done(std::mem::take(&mut self.found));
        }
        let nonce = self.nonce;
        Step::Send(self.ask(ledger, Head::Query { nonce }))
    }

    /// The next message: the first ranges from the origin on, and when none is left there, the
    /// first of all.
    fn ask(&mut self, ledger: &Ledger, head: Head) -> Message {
        let from = self.pending.range(self.origin..).next().map_or(0, |(start, _)| *start);
        let together = self.pending.range(from..).take(self.queries).count();
        let mut writer = Writer::new(head);
        for (range, ask) in self.pending.range(from..).map(|(_, pending)| pending).take(together) {
            let mark = writer.mark();
            writer.push(&self.query(ledger, *range, ask, together));
            if writer.is_full() {
                writer.back_to(mark);
                break;
            }
            self.sent.push(*range);
        }
        writer.finish(0)
    }

    fn query(&self, ledger: &Ledger, range: Range, ask: &Ask, together: usize) -> Entry {
        let content = match ask {
            Ask::Want(ids) => Content::Want(ids.clone()),
            Ask::Compare => {
                let count = range.count(ledger);
                if count > LEAF && !range.is_deepest() {
                    return fingerprints(ledger, &self.keyed, range, split_bits(count, together));
                }
                let listed = range.items(ledger).take(MAX_LISTED);
                Content::Ids(listed.map(|item| self.keyed.id(&item)).collect())
            }
        };
        Entry { range, content }
    }
}
