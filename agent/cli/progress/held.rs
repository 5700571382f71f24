//! What a run has to say while a command has the terminal.

/// Most bytes that wait. Logs can be read later.
const MOST: usize = 16 << 20;

/// Lines that wait, each ended.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    left_out: usize,
}

impl Held {
    /// Takes what belongs together, or leaves out all of it.
    pub(super) fn take(&mut self, parts: &[&[u8]]) {
        let size: usize = parts.iter().map(|part| part.len() + 1).sum();
        if self.bytes.len() + size > MOST {
            self.left_out += size;
            return;
        }
        for part in parts.iter().filter(|part| !part.is_empty()) {
            self.bytes.extend_from_slice(part);
            if !part.ends_with(b"\n") {
                self.bytes.push(b'\n');
            }
        }
    }

    /// What is to be printed now.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.left_out > 0 {
            let size = crate::text::size(self.left_out as u64);
            let note =
                format!("{size} more were not kept meanwhile; `netbuild log TASK` has logs\n");
            self.bytes.extend_from_slice(note.as_bytes());
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_whole_and_bounded() {
        let mut held = Held::default();
        held.take(&[b"one", b"", b"two\n"]);
        held.take(&[&vec![b'x'; MOST]]);
        held.take(&[b"three"]);
        let said = String::from_utf8(held.finish()).unwrap();
        assert_eq!(
            said,
            "one\ntwo\nthree\n16.8 MB more were not kept meanwhile; `netbuild log TASK` has logs\n"
        );
    }
}
