//! Signals that end a command which would otherwise go on.

use crate::errors::CliError;
use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Remembers which signal came. A second one ends the process at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Catches these signals from now on.
    pub(crate) fn catch(signals: &[i32]) -> Result<Self, CliError> {
        let (this, seen) = (Self::default(), Arc::new(AtomicBool::new(false)));
        for &signal in signals {
            let number = usize::try_from(signal).unwrap_or_default();
            // In this order: the first signal finds that none was seen.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&seen),
            )
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&seen)))
            .and_then(|_| signal_hook::flag::register_usize(signal, Arc::clone(&this.0), number))
            .map_err(CliError::usage)?;
        }
        Ok(this)
    }

    /// The latest signal that came.
    pub(crate) fn signal(&self) -> Option<i32> {
        i32::try_from(self.0.load(Ordering::SeqCst)).ok().filter(|signal| *signal != 0)
    }
}

/// As a shell says that a signal ended a program.
pub(crate) fn exit_code(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}
