//! What a store gives up when it is full, and what with age.
//!
//! What is given up may be asked for again; then it costs the time to have it from elsewhere, or, when
//! nobody has it, to build it. How likely that is nobody knows, but what was used long ago is asked for less: in
//! proportion to one over the time since, as in hyperbolic caching (Blankstein, Sen, Freedman: Hyperbolic
//! Caching, USENIX ATC 2017). So the worth of a result is the seconds that it is expected to save, for each
//! byte that it takes, and the least goes first. As worth fades with time alone, and alike for all, nothing has
//! to be kept in order between two looks.

mod amount;
mod pin;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use amount::{Amount, ParseAmountError, parse_time};
pub use pin::Pin;

/// Added to the time since the last use: within a working hour all is in use alike.
const IN_USE: f64 = 3600.0;
/// Seconds that it takes to have something from elsewhere, at least: a question and an answer, and the
/// chance that it is gone there too by then.
const LEAST_REFETCH: f64 = 0.05;
/// Space is made when this part of what is allowed is taken, so that it is seldom exceeded.
const HIGH: f64 = 0.95;
/// And made down to this part, so that not each put makes space for itself.
const LOW: f64 = 0.85;

/// How much a store may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes on disk.
    pub max_bytes: u64,
    /// Bytes of the file system that stay free for others.
    pub min_free: u64,
    /// What was not used for so long goes, even if there is room.
    pub max_age: Option<Duration>,
    /// What was used so short a time ago stays, whatever happens.
    pub grace: Duration,
}

impl Limits {
    /// Bytes that a store may take that takes `used` bytes, of a file system with `free` ones.
    pub fn allowed(&self, used: u64, free: u64) -> u64 {
        // What is free beside what must be may be taken as well.
        self.max_bytes.min((used.saturating_add(free)).saturating_sub(self.min_free))
    }

    /// Bytes to be given up by a store that takes `used` bytes, of a file system with `free` ones;
    /// 0 while there is room.
    pub fn excess(&self, used: u64, free: u64) -> u64 {
        let allowed = self.allowed(used, free);
        if used as f64 <= allowed as f64 * HIGH {
            return 0;
        }
        used.saturating_sub((allowed as f64 * LOW) as u64)
    }
}

/// A blob that is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Bytes that it takes.
    pub bytes: u64,
    /// Whether it stays: somebody pinned it or was promised it.
    pub kept: bool,
}

/// A result: a record, or a blob that no record names.
#[derive(Clone, PartialEq, Debug)]
pub struct Holding {
    /// Bytes that it takes beside its parts.
    pub bytes: u64,
    /// Its blobs that are here, by their places among all parts, each once.
    pub parts: Vec<u32>,
    /// Whether all its blobs are here.
    pub whole: bool,
    /// Since it was last used.
    pub idle: Duration,
    /// How long it takes to build it again.
    pub rebuild: Duration,
    /// How long it is expected to take to have it from elsewhere; `None` when nobody else has it.
    pub refetch: Option<Duration>,
    /// Whether it stays: somebody pinned it.
    pub kept: bool,
}

/// Why something is given up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// It was not used for the time that is allowed.
    Expired,
    /// A part of it is gone, here and everywhere, so that it serves nobody.
    Incomplete,
    /// It is the least that others have.
    HeldElsewhere,
    /// It is what is missed least of what nobody else has.
    LeastWorth,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Expired, Self::Incomplete, Self::HeldElsewhere, Self::LeastWorth];

    /// The word for it in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Incomplete => "incomplete",
            Self::HeldElsewhere => "held elsewhere",
            Self::LeastWorth => "least worth",
        }
    }
}

/// Something that is given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gone {
    /// Its place among the holdings.
    pub holding: usize,
    /// Why.
    pub why: Why,
    /// Whether it stays known without its blobs, as others have them.
    pub hint: bool,
    /// Its parts that go with it, as nothing that stays has them.
    pub parts: Vec<u32>,
    /// Bytes that are given back.
    pub bytes: u64,
}

impl Holding {
    /// Seconds that are lost when it is asked for again and is not here.
    fn loss(&self) -> f64 {
        let refetch = self.refetch.map(|time| time.as_secs_f64().max(LEAST_REFETCH));
        match (refetch, self.whole) {
            (Some(refetch), true) => refetch.min(self.rebuild.as_secs_f64()),
            // The rest has to come from elsewhere anyway; this is what it saves of that, at most.
            (Some(refetch), false) => refetch.min(self.rebuild.as_secs_f64()) / 2.0,
            (None, true) => self.rebuild.as_secs_f64(),
            (None, false) => 0.0,
        }
    }

    /// Expected seconds saved for each byte, up to a factor that all share.
    fn worth(&self, bytes: f64) -> f64 {
        self.loss() / bytes.max(1.0) / (self.idle.as_secs_f64() + IN_USE)
    }

    /// Whether only the record is here of something that others have.
    fn is_hint(&self) -> bool {
        self.parts.is_empty() && !self.whole && self.refetch.is_some()
    }

    fn why(&self) -> Why {
        match self.refetch {
            Some(_) => Why::HeldElsewhere,
            None if !self.whole => Why::Incomplete,
            None => Why::LeastWorth,
        }
    }
}

/// Says what goes, in order, so that at least `excess` bytes come free if so many may go; and what is
/// too old, whether or not there is room.
pub fn choose(holdings: &[Holding], parts: &[Part], limits: &Limits, excess: u64) -> Vec<Gone> {
    let mut users = vec![0_u32; parts.len()];
    for part in holdings.iter().flat_map(|holding| &holding.parts) {
        users[*part as usize] += 1;
    }
    let bytes_of = |holding: &Holding| {
        let shares = holding.parts.iter().map(|part| {
            let part = *part as usize;
            parts[part].bytes as f64 / f64::from(users[part])
        });
        holding.bytes as f64 + shares.sum::<f64>()
    };
    // A result of which all blobs stay as they were promised gives next to nothing back, and who was promised
    // them needs it.
    let gives = |holding: &Holding| {
        holding.parts.is_empty() || holding.parts.iter().any(|part| !parts[*part as usize].kept)
    };
    let is_old = |holding: &Holding| limits.max_age.is_some_and(|max| holding.idle > max);
    let mut order: Vec<(bool, f64, usize)> = holdings
        .iter()
        .enumerate()
        .filter(|(_, holding)| !holding.kept && holding.idle >= limits.grace)
        // What is only known of what others have takes next to nothing.
        .filter(|(_, holding)| {
            is_old(holding) || (excess > 0 && !holding.is_hint() && gives(holding))
        })
        .map(|(at, holding)| (!is_old(holding), holding.worth(bytes_of(holding)), at))
        .collect();
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    let mut all = Vec::new();
    let mut freed = 0;
    for (young, _, at) in order {
        if young && freed >= excess {
            break;
        }
        let holding = &holdings[at];
        let hint = young && holding.refetch.is_some() && !holding.parts.is_empty();
        let mut gone = Gone {
            holding: at,
            why: if young { holding.why() } else { Why::Expired },
            hint,
            parts: Vec::new(),
            bytes: if hint { 0 } else { holding.bytes },
        };
        for part in &holding.parts {
            let users = &mut users[*part as usize];
            *users -= 1;
            if *users == 0 && !parts[*part as usize].kept {
                gone.parts.push(*part);
                gone.bytes += parts[*part as usize].bytes;
            }
        }
        freed += gone.bytes;
        all.push(gone);
    }
    all
}
