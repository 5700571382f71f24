//! What came into Redis: a stream of the keys of records, capped, and when a part of it is gone, or
//! the whole, a look through all keys.

use super::{RedisTier, link::Weight};
use crate::tier::{ChangeCursor, Changes, Class, Operation, TierError};
use netbuild_core::key::ActionKey;
use redis::{Cmd, Value, cmd};

/// Entries of the stream that are kept, about; each has at most [`KEYS_IN_ENTRY`] keys, so that it
/// takes 32 MiB at the very most.
pub(super) const MAX_ENTRIES: u64 = 16_384;
/// Keys of records in one entry.
pub(super) const KEYS_IN_ENTRY: usize = 64;
/// Entries that one answer tells of.
const PAGE: usize = 8;
/// Keys that are looked through for one answer, about.
const SCAN: u64 = 512;
/// The place in the stream before all entries.
const START: &str = "0-0";

/// How far somebody has come.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// Nowhere yet.
    Nothing,
    /// Behind the entry of this id.
    Behind(String),
    /// Looking through the keys of a node; then behind the entry that was last when it began.
    Within { node: String, scan: u64, last: String },
}

impl Place {
    fn parse(cursor: &ChangeCursor) -> Self {
        let is_id = |id: &str| {
            let parts = id.split_once('-');
            parts.is_some_and(|(ms, n)| ms.parse::<u64>().is_ok() && n.parse::<u64>().is_ok())
        };
        let mut words = cursor.0.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("behind"), Some(id), None, None) if is_id(id) => Self::Behind(id.into()),
            (Some("within"), Some(last), Some(scan), Some(node)) if is_id(last) => {
                let within = |scan| Self::Within { node: node.into(), scan, last: last.into() };
                scan.parse().map_or(Self::Nothing, within)
            }
            _ => Self::Nothing,
        }
    }

    fn cursor(&self) -> ChangeCursor {
        ChangeCursor(match self {
            Self::Nothing => String::new(),
            Self::Behind(id) => format!("behind {id}"),
            Self::Within { node, scan, last } => format!("within {last} {scan} {node}"),
        })
    }
}

impl RedisTier {
    /// The commands that add keys of records to the stream.
    pub(super) fn announce(&self, keys: &[ActionKey]) -> Vec<Cmd> {
        let entries = keys.chunks(KEYS_IN_ENTRY).map(|keys| {
            let keys: Vec<u8> = keys.iter().flat_map(|key| key.0).collect();
            let mut add = cmd("XADD");
            add.arg(self.stream()).arg("MAXLEN").arg("~").arg(MAX_ENTRIES).arg("*");
            add.arg("k").arg(keys);
            add
        });
        entries.collect()
    }

    pub(super) async fn since(&self, after: &ChangeCursor) -> Result<Changes, TierError> {
        match Place::parse(after) {
            Place::Behind(id) => self.behind(id).await,
            Place::Within { node, scan, last } => self.look(node, scan, last).await,
            Place::Nothing => self.begin().await,
        }
    }

    /// Starts to look through all keys. What comes in meanwhile is in the stream.
    async fn begin(&self) -> Result<Changes, TierError> {
        let mut newest = cmd("XREVRANGE");
        newest.arg(self.stream()).arg("+").arg("-").arg("COUNT").arg(1);
        let entries = entries(&self.ask_one(Weight::Small, Operation::Changes, newest).await?);
        let last = entries.into_iter().next().map_or(START.to_owned(), |(id, _)| id);
        let nodes = self.masters().await?;
        let node = nodes.into_iter().next().unwrap_or_default();
        self.look(node, 0, last).await
    }

    async fn behind(&self, id: String) -> Result<Changes, TierError> {
        let mut range = cmd("XRANGE");
        range.arg(self.stream()).arg(&id).arg("+").arg("COUNT").arg(PAGE + 1);
        let mut length = cmd("XLEN");
        length.arg(self.stream());
        let answers = self.ask(Weight::Small, Operation::Changes, &[range, length]).await?;
        let [range, length] = &answers[..] else { return self.begin().await };
        let mut entries = entries(range);
        let at_start = id == START;
        if at_start && matches!(length, Value::Int(length) if *length as u64 >= MAX_ENTRIES) {
            // Some may have been cut off before they were seen.
            return self.begin().await;
        }
        if !at_start {
            if entries.first().is_none_or(|(first, _)| *first != id) {
                // What followed the entry may be gone as it is.
                return self.begin().await;
            }
            entries.remove(0);
        }
        let more = entries.len() >= PAGE;
        let last = entries.last().map_or(id, |(id, _)| id.clone());
        let keys: Vec<_> = entries.into_iter().flat_map(|(_, keys)| keys).collect();
        let records = self.get_records(&keys, Operation::Changes).await?;
        let records = records.into_iter().flatten().collect();
        Ok(Changes { records, cursor: Place::Behind(last).cursor(), more })
    }

    async fn look(&self, node: String, scan: u64, last: String) -> Result<Changes, TierError> {
        let nodes = self.masters().await?;
        let Some(at) = nodes.iter().position(|known| *known == node) else {
            // The cluster is another one than before: all over again.
            let place = Place::Nothing;
            return Ok(Changes { records: Vec::new(), cursor: place.cursor(), more: true });
        };
        let mut command = cmd("SCAN");
        command.arg(scan).arg("MATCH").arg(self.pattern()).arg("COUNT").arg(SCAN);
        let address = node.rsplit_once(':');
        let address = address.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        let answer = self.ask_node(address, Operation::Changes, command).await?;
        let (scan, keys) = self.scanned(answer)?;
        let records = self.get_records(&keys, Operation::Changes).await?;
        let records = records.into_iter().flatten().collect();
        let place = match (scan, nodes.get(at + 1)) {
            (0, None) => Place::Behind(last),
            (0, Some(next)) => Place::Within { node: next.clone(), scan: 0, last },
            _ => Place::Within { node, scan, last },
        };
        let more = matches!(place, Place::Within { .. });
        Ok(Changes { records, cursor: place.cursor(), more })
    }

    /// The addresses of those who have parts of the keys, in order; one without a name when there
    /// are no parts.
    async fn masters(&self) -> Result<Vec<String>, TierError> {
        if !self.links.is_cluster() {
            return Ok(vec!["-".into()]);
        }
        let mut command = cmd("CLUSTER");
        command.arg("SLOTS");
        let answer = self.ask_one(Weight::Small, Operation::Changes, command).await?;
        let slots = answer.as_sequence().unwrap_or_default().iter();
        let mut nodes: Vec<String> = slots.filter_map(master).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Ok(nodes)
    }

    fn scanned(&self, answer: Value) -> Result<(u64, Vec<ActionKey>), TierError> {
        let strange = || {
            TierError::new(self.options.name(), Operation::Changes.as_str(), Class::Corrupt)
                .because("its answer to SCAN is none")
        };
        let (cursor, names): (String, Vec<Vec<u8>>) =
            redis::from_redis_value(answer).map_err(|_| strange())?;
        let cursor = cursor.parse().map_err(|_| strange())?;
        Ok((cursor, names.iter().filter_map(|name| self.key_of(name)).collect()))
    }
}

/// The ids and the keys of entries of the stream; what is no entry of ours has no keys.
fn entries(value: &Value) -> Vec<(String, Vec<ActionKey>)> {
    let entries = value.as_sequence().unwrap_or_default().iter();
    let entries = entries.filter_map(|entry| {
        let [Value::BulkString(id), fields] = entry.as_sequence()? else { return None };
        let keys = match fields.as_sequence() {
            Some([_, Value::BulkString(keys)]) => keys.as_chunks::<32>().0,
            _ => &[],
        };
        let keys = keys.iter().take(KEYS_IN_ENTRY).map(|key| ActionKey(*key));
        Some((String::from_utf8(id.clone()).ok()?, keys.collect()))
    });
    entries.collect()
}

/// The address of the master in one line of `CLUSTER SLOTS`.
fn master(slot: &Value) -> Option<String> {
    let node = slot.as_sequence()?.get(2)?.as_sequence()?;
    match node {
        [Value::BulkString(host), Value::Int(port), ..] => {
            Some(format!("{}:{port}", std::str::from_utf8(host).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_were_written_and_nonsense_is_the_beginning() {
        let within =
            Place::Within { node: "127.0.0.1:7000".into(), scan: 77, last: "1-2".to_owned() };
        for place in [Place::Nothing, Place::Behind("17-0".into()), within] {
            assert_eq!(Place::parse(&place.cursor()), place);
        }
        for text in ["behind", "behind x", "behind 1-2 3", "within 1-2 x n", "0"] {
            assert_eq!(Place::parse(&ChangeCursor(text.into())), Place::Nothing, "{text}");
        }
    }
}
