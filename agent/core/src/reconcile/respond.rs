//! The side that is asked.

use super::{
    BadMessage, Id, Keyed, LEAF, MAX_LISTED, Message,
    range::Range,
    split_bits,
    wire::{Content, Entry, Head, Writer, read},
};
use crate::ledger::{Item, Ledger};
use std::collections::HashSet;

/// What is to be said of a range. It is put into words when its turn comes, so that no more is held
/// in memory than fits into the answer.
enum Reply<'a> {
    /// Fingerprints of its parts; it has so many items.
    Split(Range, u64),
    /// The ids of its items.
    Ids(Range),
    /// The items that are not among these, and those of these that are missing.
    Complete(Range, &'a [Id]),
    /// The items that are among these.
    Wanted(Range, &'a [Id]),
}

/// Answers a message of a session. The answer is bounded and may leave out the last ranges that were
/// asked about; the session asks for them again.
pub fn respond(ledger: &Ledger, message: &Message) -> Result<Message, BadMessage> {
    let (head, queries) = read(message)?;
    let keyed = match head {
        Head::Hello { nonce, root } => {
            let keyed = Keyed::new(nonce);
            if keyed.root(Range::WHOLE.summary(ledger)) == root {
                return Ok(Writer::new(Head::Answer { answered: 0 }).finish(queries.len()));
            }
            keyed
        }
        Head::Query { nonce } => Keyed::new(nonce),
        Head::Answer { .. } => return Err(BadMessage("an answer to nothing")),
    };
    let responder = Responder { ledger, keyed };
    let replies: Vec<_> =
        queries.iter().map(|query| responder.judge(query)).collect::<Result<_, _>>()?;
    let splits = replies.iter().flatten().filter(|reply| matches!(reply, Reply::Split(..))).count();

    let mut writer = Writer::new(Head::Answer { answered: 0 });
    let mut answered = 0;
    for replies in &replies {
        let mark = writer.mark();
        for reply in replies {
            if let Some(entry) = responder.tell(reply, splits) {
                writer.push(&entry);
            }
        }
        if writer.is_full() {
            writer.back_to(mark);
            break;
        }
        answered += 1;
    }
    Ok(writer.finish(answered))
}

struct Responder<'a> {
    ledger: &'a Ledger,
    keyed: Keyed,
}

impl Responder<'_> {
    fn judge<'a>(&self, query: &'a Entry) -> Result<Vec<Reply<'a>>, BadMessage> {
        let range = query.range;
        match &query.content {
            Content::Fingerprints { bits, values } => {
                let parts = range.parts(*bits).zip(values);
                Ok(parts.filter_map(|(part, value)| self.compare(part, *value)).collect())
            }
            Content::Ids(ids) => Ok(vec![self.complete(range, range.count(self.ledger), ids)]),
            Content::Want(ids) => Ok(vec![Reply::Wanted(range, ids)]),
            Content::Items { .. } => Err(BadMessage("items that nobody asked for")),
        }
    }

    /// What to say of a range with this fingerprint on the other side; nothing when it is equal.
    fn compare<'a>(&self, range: Range, theirs: u32) -> Option<Reply<'a>> {
        let summary = range.summary(self.ledger);
        if self.keyed.fingerprint(summary) == theirs {
            None
        } else if theirs == 0 {
            Some(self.complete(range, summary.count, &[]))
        } else if summary.count > LEAF && !range.is_deepest() {
            Some(Reply::Split(range, summary.count))
        } else {
            Some(Reply::Ids(range))
        }
    }

    /// What to say of a range in which the other side has just these items.
    fn complete<'a>(&self, range: Range, count: u64, theirs: &'a [Id]) -> Reply<'a> {
        if count > MAX_LISTED as u64 && !range.is_deepest() {
            Reply::Split(range, count)
        } else {
            Reply::Complete(range, theirs)
        }
    }

    fn tell(&self, reply: &Reply<'_>, splits: usize) -> Option<Entry> {
        let id = |item: &Item| self.keyed.id(item);
        let listed = |range: Range| range.items(self.ledger).take(MAX_LISTED);
        Some(match *reply {
            Reply::Split(range, count) => {
                fingerprints(self.ledger, &self.keyed, range, split_bits(count, splits))
            }
            Reply::Ids(range) => {
                let ids = listed(range).map(|item| id(&item)).collect();
                Entry { range, content: Content::Ids(ids) }
            }
            Reply::Complete(range, theirs) => {
                let mut lacks: HashSet<Id> = theirs.iter().take(MAX_LISTED).copied().collect();
                let items: Vec<Item> =
                    listed(range).filter(|item| !lacks.remove(&id(item))).collect();
                if items.is_empty() && lacks.is_empty() {
                    return None;
                }
                // In the order in which they came, so that equal questions have equal answers.
                let lacks = theirs.iter().filter(|id| lacks.remove(*id)).copied().collect();
                Entry { range, content: Content::Items { items, lacks } }
            }
            Reply::Wanted(range, ids) => {
                // Ids are only told of ranges with few items. One that has grown since then is for
                // the next session.
                if range.count(self.ledger) > MAX_LISTED as u64 && !range.is_deepest() {
                    return None;
                }
                let items = listed(range).filter(|item| ids.contains(&id(item))).collect();
                Entry { range, content: Content::Items { items, lacks: Vec::new() } }
            }
        })
    }
}

/// The entry that tells the fingerprints of a range's parts.
pub(super) fn fingerprints(ledger: &Ledger, keyed: &Keyed, range: Range, bits: u32) -> Entry {
    let bits = bits.min(super::range::MAX_DEPTH - range.depth);
    let values = range.parts(bits).map(|part| keyed.fingerprint(part.summary(ledger))).collect();
    Entry { range, content: Content::Fingerprints { bits, values } }
}
