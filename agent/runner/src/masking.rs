//! Keeps the values of secret variables out of logs, even when they come in pieces.

/// What stands in a log for a secret.
const MASK: &[u8] = b"***";
/// Shorter values are not masked: they would match everywhere, and are no secrets.
const SHORTEST: usize = 4;

/// Replaces secrets in one stream.
#[derive(Debug)]
pub(crate) struct Masker {
    secrets: Vec<Vec<u8>>,
    /// The end of what was read, which may be the start of a secret.
    held: Vec<u8>,
}

impl Masker {
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        let mut secrets: Vec<_> =
            secrets.into_iter().filter(|secret| secret.len() >= SHORTEST).cloned().collect();
        // The longest first, so that a secret that contains another one goes as a whole.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets, held: Vec::new() }
    }

    /// Takes the next bytes and returns those that are safe to show.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.take(false)
    }

    /// Returns what was still held.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> Vec<u8> {
        if self.secrets.is_empty() {
            return std::mem::take(&mut self.held);
        }
        let mut shown = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            let may_grow = |secret: &Vec<u8>| secret.len() > rest.len() && secret.starts_with(rest);
            if !all && self.secrets.iter().any(may_grow) {
                // Even when a shorter secret is here whole: its end would be left over.
                break;
            }
            if let Some(secret) = self.secrets.iter().find(|secret| rest.starts_with(secret)) {
                shown.extend_from_slice(MASK);
                at += secret.len();
            } else {
                shown.push(rest[0]);
                at += 1;
            }
        }
        self.held.drain(..at);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_secret_never_shows_however_it_is_cut(
            before in "[a-c]{0,8}", after in "[a-c]{0,8}", cuts in prop::collection::vec(1usize..4, 0..12)
        ) {
            let secret = b"abca".to_vec();
            let text = format!("{before}abca{after}").into_bytes();
            let mut masker = Masker::new([&secret]);
            let mut shown = Vec::new();
            let mut rest = text.as_slice();
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                shown.extend(masker.push(piece));
                rest = tail;
            }
            shown.extend(masker.push(rest));
            shown.extend(masker.finish());
            prop_assert!(!shown.windows(4).any(|window| window == secret));
            prop_assert!(shown.windows(3).any(|window| window == MASK));
            let whole = { let mut m = Masker::new([&secret]); let mut s = m.push(&text); s.extend(m.finish()); s };
            prop_assert_eq!(shown, whole);
        }
    }

    #[test]
    fn of_two_secrets_the_longer_one_goes_as_a_whole() {
        let secrets = [b"token".to_vec(), b"token-and-more".to_vec()];
        for (pieces, expected) in [
            (&["token", "-and-more."][..], "***."),
            (&["token", "-and-less."], "***-and-less."),
            (&["token"], "***"),
        ] {
            let mut masker = Masker::new(&secrets);
            let mut shown: Vec<u8> =
                pieces.iter().flat_map(|piece| masker.push(piece.as_bytes())).collect();
            shown.extend(masker.finish());
            assert_eq!(String::from_utf8_lossy(&shown), expected);
        }
    }

    #[test]
    fn text_without_secrets_passes_as_it_is() {
        let mut masker = Masker::new([]);
        assert_eq!(masker.push(b"hello"), b"hello");
        assert_eq!(masker.finish(), b"");
    }
}
