//! The newest few blobs of one name, say of an output path.

use netbuild_core::digest::Digest;

/// Blobs kept for one name. What is wanted of them is one that resembles the next: the newest that
/// is here, or one of those before when another branch was built in between.
pub(crate) const MAX_RECENT: usize = 4;

/// Blobs with the time of each, newest first, each once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Recent(pub(crate) Vec<(u64, Digest)>);

impl Recent {
    /// Adds a blob. When they are too many the oldest that is not `here` goes, but for the newest
    /// of all, which may be on its way; if all are here, the oldest.
    pub(crate) fn add(&mut self, time: u64, blob: Digest, here: impl Fn(&Digest) -> bool) {
        match self.0.iter_mut().find(|(_, known)| *known == blob) {
            Some((known, _)) => *known = time.max(*known),
            None => self.0.push((time, blob)),
        }
        self.0.sort_unstable_by(|a, b| b.cmp(a));
        while self.0.len() > MAX_RECENT {
            let gone = self.0.iter().skip(1).rposition(|(_, blob)| !here(blob));
            self.0.remove(gone.map_or(self.0.len() - 1, |at| at + 1));
        }
    }

    /// The blobs, newest first.
    pub(crate) fn blobs(&self) -> Vec<Digest> {
        self.0.iter().map(|(_, blob)| *blob).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(n: u64) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    #[test]
    fn the_newest_stay_in_whatever_order_they_come() {
        for order in [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [4, 1, 6, 2, 5, 3]] {
            let mut recent = Recent::default();
            for time in order {
                recent.add(time, blob(time), |_| true);
            }
            assert_eq!(recent.blobs(), [6, 5, 4, 3].map(blob));
            recent.add(9, blob(4), |_| true);
            assert_eq!(recent.blobs(), [4, 6, 5, 3].map(blob));
        }
    }

    #[test]
    fn what_is_here_outlives_what_others_have_built_since() {
        let mut recent = Recent::default();
        for time in 1..=9 {
            recent.add(time, blob(time), |known| *known == blob(2));
        }
        assert_eq!(recent.blobs(), [9, 8, 7, 2].map(blob));
    }
}
