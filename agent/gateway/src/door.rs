//! What a control socket leads to.

use netbuild_core::{
    cache::{Cache, CacheError, Hit},
    digest::Digest,
    evict::Pin,
    key::ActionKey,
    moved::Watch,
    record::Record,
};
use netbuild_proto::{
    control::{
        ConflictRow, Decision, GcOrder, GcReport, LinkRow, MonitorSnapshot, PinRow, PlanReport,
        SpaceReport, Status, SyncOrder, SyncProgress, SyncReport, VerifyOrder, VerifyProgress,
        VerifyReport,
    },
    record::SealedRecord,
};
use std::{ops::ControlFlow, time::Duration};

/// Hears how far a sync is, and says whether it goes on.
pub type OnProgress<'a> = &'a mut (dyn FnMut(SyncProgress) -> ControlFlow<()> + Send);

/// Hears how far a verification is, and says whether it goes on.
pub type OnVerify<'a> = &'a mut (dyn FnMut(VerifyProgress) -> ControlFlow<()> + Send);

/// Hears what is done and how far it is, from 0 to 1, and says whether it goes on.
pub type OnStep<'a> = &'a (dyn Fn(&str, f64) -> ControlFlow<()> + Sync);

/// The owner of a data directory: its cache, and what it knows. Without a mesh it knows its state
/// only, and what is provided here is enough.
///
/// Every method but [`Door::status`] may take as long as it needs: the client hears meanwhile that
/// it is worked on.
pub trait Door: Cache + 'static {
    /// A hit with the signed bytes of its record; see [`Cache::lookup`].
    fn lookup_sealed(
        &self,
        key: &ActionKey,
        watch: &dyn Watch,
    ) -> Result<Option<(SealedRecord, Hit)>, CacheError>;

    /// The signed bytes of a record that is here; see [`Cache::peek`].
    fn peek_sealed(&self, _: &ActionKey) -> Result<Option<SealedRecord>, CacheError> {
        Ok(None)
    }

    /// The state of the process.
    fn status(&self) -> Status;

    /// Waits, at most so long, until the tiers have what is to be copied to them. What they lack then
    /// is in [`Door::status`].
    fn drain(&self, _timeout: Duration) -> Result<(), CacheError> {
        Ok(())
    }

    /// A blob that is here, and that no result names, is to be copied to the tiers.
    fn share(&self, _blob: &Digest) -> Result<(), CacheError> {
        Ok(())
    }

    /// What is known of the links between agents.
    fn links(&self) -> Result<Vec<LinkRow>, CacheError> {
        Err(no_agent())
    }

    /// How `blob` would be had now.
    fn plan(&self, _blob: &Digest) -> Result<PlanReport, CacheError> {
        Err(no_agent())
    }

    /// The decisions of late, the latest first and at most `limit`. With `about`, those whose
    /// digest or action key begins with these hex digits, or whose task has it in its name.
    fn decisions(&self, _about: Option<&str>, _limit: u32) -> Result<Vec<Decision>, CacheError> {
        Err(no_agent())
    }

    /// The actions with results that differ.
    fn conflicts(&self) -> Result<Vec<ConflictRow>, CacheError> {
        Err(no_agent())
    }

    /// Copies between regions. Calls `progress` about once a second or more often, and ends soon
    /// after that said to break off; what was copied by then is kept.
    fn sync(
        &self,
        _order: &SyncOrder,
        _progress: OnProgress<'_>,
    ) -> Result<SyncReport, CacheError> {
        Err(no_agent())
    }

    /// Looks through the store, and mends it if that is ordered. Calls `progress` about once a second
    /// or more often, and ends soon after that said to break off; what was mended by then stays so.
    fn verify(
        &self,
        _order: &VerifyOrder,
        _progress: OnVerify<'_>,
    ) -> Result<VerifyReport, CacheError> {
        Err(CacheError::Failed("there is no store here that could be verified".to_owned()))
    }

    /// Promises the connection with this number that what a record names stays until
    /// [`Door::leave`].
    fn keep(&self, _connection: u64, _record: &Record) {}

    /// A connection has ended.
    fn leave(&self, _connection: u64) {}

    /// What takes the space of the data directory.
    fn space(&self, _tell: OnStep<'_>) -> Result<SpaceReport, CacheError> {
        Err(no_disk())
    }

    /// Makes space in the data directory.
    fn gc(&self, _order: &GcOrder, _tell: OnStep<'_>) -> Result<GcReport, CacheError> {
        Err(no_disk())
    }

    /// Keeps something whatever else goes; says whether that is new.
    fn pin(&self, _pin: Pin, _label: &str) -> Result<bool, CacheError> {
        Err(no_disk())
    }

    /// Lets something go like anything else; says whether it was pinned.
    fn unpin(&self, _pin: &Pin) -> Result<bool, CacheError> {
        Err(no_disk())
    }

    /// What is pinned.
    fn pins(&self) -> Result<Vec<PinRow>, CacheError> {
        Err(no_disk())
    }

    /// The mesh at this moment.
    fn monitor(&self) -> Result<MonitorSnapshot, CacheError> {
        Err(no_agent())
    }
}

fn no_disk() -> CacheError {
    CacheError::Failed("nothing is kept on a disk here".to_owned())
}

fn no_agent() -> CacheError {
    CacheError::Failed("no agent runs here: only an agent knows the mesh".to_owned())
}
