//! Having the disk take what is there of a large file while more of it comes.
//!
//! The system would keep all of it in memory until somebody syncs the file, and the disk would idle
//! meanwhile. Who hashes a blob as it comes, and syncs it at its end, needs as long as the longer of the two.

use std::{
    fs::File,
    io,
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
};

/// Bytes that the disk is given at once; a file of fewer has no thread.
const STRETCH: u64 = 32 << 20;

/// A thread that syncs a file; it ends with this.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Bytes since it was last told.
    since: u64,
    worker: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl Behind {
    /// Says that so many bytes more were written.
    pub(super) fn wrote(&mut self, file: &File, bytes: u64) {
        self.since += bytes;
        if self.since < STRETCH {
            return;
        }
        if self.worker.is_none() {
            self.worker = start(file);
        }
        match self.worker.as_ref().map(|(due, _)| due.try_send(())) {
            // It is still at what came before, and is told with the next piece.
            Some(Err(TrySendError::Full(()))) => {}
            // Without a thread all goes to the disk at the end, and one that failed says so then.
            Some(Ok(()) | Err(TrySendError::Disconnected(()))) | None => self.since = 0,
        }
    }

    /// Returns when it has ended, with what the disk refused: who syncs the file later does not
    /// hear of it again.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let Some((due, worker)) = self.worker.take() else { return Ok(()) };
        drop(due);
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs panicked")))
    }
}

fn start(file: &File) -> Option<(SyncSender<()>, JoinHandle<io::Result<()>>)> {
    let file = file.try_clone().ok()?;
    // One more may be due while it syncs.
    let (due, told) = sync_channel(1);
    let work = move || told.iter().try_for_each(|()| file.sync_data());
    let thread = thread::Builder::new().name("netbuild-sync".to_owned()).spawn(work);
    Some((due, thread.ok()?))
}
