//! Cutting a blob on its way in: at first by who reads it, and beside that when it is large.
//!
//! To cut a blob and to digest its chunks takes about as long as to digest it whole and to write it.

use super::pieces::PIECE;
use crate::StoreError;
use netbuild_core::chunk::Cutter;
use std::{
    io, mem,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Scope, ScopedJoinHandle},
};

/// Bytes of a blob from which on it is worth a thread.
pub(super) const CUT_BESIDE: u64 = 8 << 20;
/// Bytes that are moved at once with it. A gigabyte is put in 1.05 s with these, in 1.2 with a quarter
/// and in 1.35 with an eighth of them (two processors that share a core).
const LARGE_PIECE: usize = 1 << 20;
/// Pieces that wait for that thread, at most.
const WAITING: usize = 4;

/// A piece in a buffer that may be longer.
type Piece = (Arc<Vec<u8>>, usize);

/// The cutting of one blob.
pub(super) struct Cutting<'s> {
    cutter: Cutter,
    beside: Option<Beside<'s>>,
    /// Whether there can be no thread.
    alone: bool,
    buffers: Vec<Vec<u8>>,
}

struct Beside<'s> {
    pieces: SyncSender<Piece>,
    done: Receiver<Arc<Vec<u8>>>,
    thread: ScopedJoinHandle<'s, Cutter>,
}

impl<'s> Cutting<'s> {
    /// Begins with the first bytes.
    pub(super) fn begin(head: &[u8]) -> Self {
        let mut cutter = Cutter::default();
        cutter.update(head);
        Self { cutter, beside: None, alone: false, buffers: Vec::new() }
    }

    /// A buffer for the next piece.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        let done = self.beside.iter().flat_map(|beside| beside.done.try_iter());
        self.buffers.extend(done.filter_map(Arc::into_inner));
        let len = if self.beside.is_some() { LARGE_PIECE } else { PIECE };
        self.buffers.pop().filter(|piece| piece.len() == len).unwrap_or_else(|| vec![0; len])
    }

    /// Has a thread cut from now on.
    pub(super) fn beside<'e>(&mut self, scope: &'s Scope<'s, 'e>) {
        if self.beside.is_some() || self.alone {
            return;
        }
        let (pieces, coming) = sync_channel::<Piece>(WAITING);
        let (give_back, done) = sync_channel(2 * WAITING);
        let cutter = mem::take(&mut self.cutter);
        // Kept until there is a thread, as it would be lost with a thread that cannot be had.
        let (hand_over, handed) = sync_channel(1);
        let work = move || {
            let mut cutter: Cutter = handed.recv().unwrap_or_default();
            for (piece, len) in coming {
                cutter.update(&piece[..len]);
                // Nobody waits for a buffer.
                let _ = give_back.try_send(piece);
            }
            cutter
        };
        match std::thread::Builder::new().name("netbuild-cut".to_owned()).spawn_scoped(scope, work)
        {
            Ok(thread) => {
                // It waits for this.
                let _ = hand_over.send(cutter);
                self.beside = Some(Beside { pieces, done, thread });
            }
            Err(_) => (self.cutter, self.alone) = (cutter, true),
        }
    }

    /// Adds the next bytes.
    pub(super) fn add(&mut self, piece: &Arc<Vec<u8>>, len: usize) {
        match &self.beside {
            // A thread that panicked says so at the end.
            Some(beside) => drop(beside.pieces.send((Arc::clone(piece), len))),
            None => self.cutter.update(&piece[..len]),
        }
    }

    /// Takes a buffer back that is needed no more here.
    pub(super) fn take_back(&mut self, piece: Arc<Vec<u8>>) {
        self.buffers.extend(Arc::into_inner(piece));
    }

    /// The cutter after all bytes.
    pub(super) fn end(self) -> Result<Cutter, StoreError> {
        let Some(Beside { pieces, thread, .. }) = self.beside else { return Ok(self.cutter) };
        drop(pieces);
        let panicked = || StoreError::Content(io::Error::other("the thread that cuts it panicked"));
        thread.join().map_err(|_| panicked())
    }
}
