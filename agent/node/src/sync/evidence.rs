//! Records that lost against others with different results: every agent is to know the conflict, also
//! one that only ever saw the winner.

use super::Syncer;
use crate::disk_cache::failed;
use netbuild_core::{cache::CacheError, peer::PeerId};
use netbuild_proto::{
    exchange::{Lost, MAX_EVIDENCE, MAX_LOST, Request, Response, summary},
    record::SealedRecord,
};
use netbuild_store::Conflict;
use std::collections::BTreeSet;

fn lost_of(record: &SealedRecord) -> Lost {
    Lost { key: record.record().key, sum: record.item().sum }
}

fn shared(conflict: &Conflict) -> impl Iterator<Item = &SealedRecord> {
    conflict.others.iter().filter(|record| record.record().execution.is_shared())
}

/// What lost here.
fn here(syncer: &Syncer) -> Result<BTreeSet<Lost>, CacheError> {
    let conflicts = syncer.fetcher.disk.store().conflicts(MAX_EVIDENCE).map_err(failed)?;
    Ok(conflicts.iter().flat_map(shared).map(lost_of).take(MAX_EVIDENCE).collect())
}

/// Gets from a member what lost there and is not known here.
pub(super) async fn compare(syncer: &Syncer, peer: &PeerId) -> Result<(), String> {
    let here = here(syncer).map_err(|error| error.to_string())?;
    let summary = summary(&here);
    let Response::Evidence(theirs) = syncer.ask(*peer, &Request::Evidence { summary }).await?
    else {
        return Err("the answer is to another question".to_owned());
    };
    let unknown = |lost: &Lost| !here.contains(lost) && !syncer.is_spared(lost.key, lost.sum);
    let unknown: Vec<Lost> = theirs.into_iter().filter(unknown).collect();
    for wanted in unknown.chunks(MAX_LOST) {
        let Response::Lost(records) = syncer.ask(*peer, &Request::Lost(wanted.to_vec())).await?
        else {
            return Err("the answer is to another question".to_owned());
        };
        for record in &records {
            syncer.fetcher.keep(record).map_err(|error| error.to_string())?;
            // There may be no room for it, and then it is not asked for again either.
            let Lost { key, sum } = lost_of(record);
            syncer.spare(key, sum);
        }
    }
    Ok(())
}

/// Answers a member that has what `summary` says.
pub(super) fn answer(syncer: &Syncer, theirs: u64) -> Result<Response, CacheError> {
    let here = here(syncer)?;
    let same = summary(&here) == theirs;
    Ok(Response::Evidence(if same { Vec::new() } else { here.into_iter().collect() }))
}

/// The records that a member asks for, as far as they are here.
pub(super) fn lost(syncer: &Syncer, wanted: &[Lost]) -> Result<Response, CacheError> {
    let mut records = Vec::new();
    for wanted in wanted {
        let conflict = syncer.fetcher.disk.store().conflict(&wanted.key).map_err(failed)?;
        if let Some(conflict) = conflict {
            records.extend(shared(&conflict).find(|record| lost_of(record) == *wanted).cloned());
        }
    }
    Ok(Response::Lost(records))
}
