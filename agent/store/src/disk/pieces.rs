//! Reading to an end, piece by piece.

use std::{
    io::{self, Read},
    ops::ControlFlow,
};

/// Bytes moved at once: enough for the hash to run at full speed, little enough for many threads.
pub(super) const PIECE: usize = 256 * 1024;

/// Reads to the end, or until `each` breaks off; says whether it did.
pub(super) fn each_piece(
    mut reader: impl Read,
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    let mut piece = vec![0; PIECE];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(ControlFlow::Continue(())),
            Ok(len) if each(&piece[..len]).is_break() => return Ok(ControlFlow::Break(())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads to the end.
pub(super) fn all_pieces(reader: impl Read, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let read = each_piece(reader, |piece| {
        each(piece);
        ControlFlow::Continue(())
    });
    read.map(drop)
}
