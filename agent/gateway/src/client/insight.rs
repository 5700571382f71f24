//! Asks an agent what it knows of the mesh, and to sync.

use super::{SocketCache, done, unexpected};
use crate::door::{OnProgress, OnVerify};
use netbuild_core::{cache::CacheError, digest::Digest};
use netbuild_proto::control::{
    ConflictRow, Decision, LinkRow, MonitorSnapshot, PlanReport, Request, Response, Rows,
    SyncOrder, SyncReport, VerifyOrder, VerifyReport,
};
use std::ops::ControlFlow;

impl SocketCache {
    /// What is known of the links between agents.
    ///
    /// # Errors
    /// This one and those below: when no agent serves the socket, or it does not answer rightly.
    pub fn links(&self) -> Result<Rows<LinkRow>, CacheError> {
        match self.ask(&Request::Links)? {
            Response::Links(rows) => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    /// How `blob` would be had now.
    pub fn plan(&self, blob: &Digest) -> Result<PlanReport, CacheError> {
        match self.ask(&Request::Plan(*blob))? {
            Response::Plan(plan) => Ok(plan),
            other => Err(unexpected(&other)),
        }
    }

    /// The decisions of late, the latest first and at most `limit`; with `about`, only those about
    /// that, see `Door::decisions`.
    pub fn decisions(&self, about: Option<&str>, limit: u32) -> Result<Rows<Decision>, CacheError> {
        match self.ask(&Request::Why { about: about.map(str::to_owned), limit })? {
            Response::Why(rows) => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    /// The actions with results that differ.
    pub fn conflicts(&self) -> Result<Rows<ConflictRow>, CacheError> {
        match self.ask(&Request::Conflicts)? {
            Response::Conflicts(rows) => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    /// The mesh at this moment.
    pub fn monitor(&self) -> Result<MonitorSnapshot, CacheError> {
        match self.ask(&Request::Monitor)? {
            Response::Monitor(snapshot) => Ok(snapshot),
            other => Err(unexpected(&other)),
        }
    }

    /// Copies between regions. Calls `progress` several times a second, with the same again when
    /// there is nothing new. `None` when that broke it off; the agent then ends it too.
    pub fn sync(
        &self,
        order: &SyncOrder,
        progress: OnProgress<'_>,
    ) -> Result<Option<SyncReport>, CacheError> {
        let told = |response: &Response| match response {
            Response::Syncing(progress) => Some(progress.clone()),
            _ => None,
        };
        match self.ask_telling(&Request::Sync(order.clone()), told, progress)? {
            Some(Response::Synced(report)) => Ok(Some(report)),
            Some(other) => Err(unexpected(&other)),
            None => Ok(None),
        }
    }

    /// Looks through the store of the process; otherwise as [`SocketCache::sync`].
    pub fn verify(
        &self,
        order: &VerifyOrder,
        progress: OnVerify<'_>,
    ) -> Result<Option<VerifyReport>, CacheError> {
        let told = |response: &Response| match response {
            Response::Verifying(progress) => Some(progress.clone()),
            _ => None,
        };
        match self.ask_telling(&Request::Verify(*order), told, progress)? {
            Some(Response::Verified(report)) => Ok(Some(report)),
            Some(other) => Err(unexpected(&other)),
            None => Ok(None),
        }
    }

    /// Sends a request that takes long and returns its answer; `None` when `progress` broke it off.
    fn ask_telling<P: Clone + Default>(
        &self,
        request: &Request,
        told: fn(&Response) -> Option<P>,
        progress: &mut (dyn FnMut(P) -> ControlFlow<()> + Send),
    ) -> Result<Option<Response>, CacheError> {
        let mut connection = self.pool.take()?;
        connection.send(request)?;
        let mut latest = P::default();
        loop {
            match connection.next()? {
                Response::Working => {}
                response => match told(&response) {
                    Some(progress) => latest = progress,
                    None => {
                        connection.put_back();
                        return done(response).map(Some);
                    }
                },
            }
            if progress(latest.clone()).is_break() {
                // Closes the connection, by which the other end knows.
                return Ok(None);
            }
        }
    }
}
