//! Content and records for the tests of stores.

use netbuild_core::{
    digest::{Digest, Hash},
    hlc::Hlc,
    key::ActionKey,
    merge::Trust,
    peer::Identity,
    record::{ActionResult, Execution, Output, OutputKind, Record, Sandbox},
};
use netbuild_proto::record::SealedRecord;
use netbuild_store::Store;
use std::io::Read as _;

/// Bytes that look random and are the same everywhere (SplitMix64, Steele et al. 2014).
pub(crate) fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A signed record of the action `key`, written at `hlc`; `exit_code` tells records apart.
pub(crate) fn record(key: u8, hlc: u64, exit_code: i32) -> SealedRecord {
    sealed(1, key, hlc, exit_code)
}

/// The same by any writer.
pub(crate) fn sealed(by: u8, key: u8, hlc: u64, exit_code: i32) -> SealedRecord {
    at(by, ActionKey([key; 32]), hlc, exit_code)
}

/// The same for any key.
pub(crate) fn at(by: u8, key: ActionKey, hlc: u64, exit_code: i32) -> SealedRecord {
    let identity = Identity::from_seed(&[by; 32]);
    let record = Record {
        key,
        result: ActionResult { exit_code, outputs: Vec::new(), log: None },
        execution: Execution {
            duration_ms: 60_000,
            finished_at_ms: 2,
            sandbox_asked: Sandbox::Env,
            sandbox_obtained: Sandbox::Env,
            tools: Vec::new(),
            netbuild_version: "0.1.0".into(),
            flaky: false,
            drift_checked: true,
            local: false,
            bound_to: (key.0[0] % 2 == 1).then_some(Hash([3; 32])),
        },
        writer: identity.peer_id(),
        region: String::new(),
        hlc: Hlc(hlc),
    };
    SealedRecord::seal(record, &identity).unwrap()
}

/// A record whose outputs are files with these paths and contents.
pub(crate) fn with_outputs(key: u8, hlc: u64, outputs: &[(&str, Digest)]) -> SealedRecord {
    let mut record = record(key, hlc, 0).record().clone();
    let output = |(path, digest): &(&str, Digest)| Output {
        path: path.as_bytes().to_vec(),
        kind: OutputKind::File { digest: *digest, executable: false },
    };
    record.result.outputs = outputs.iter().map(output).collect();
    SealedRecord::seal(record, &Identity::from_seed(&[1; 32])).unwrap()
}

/// Puts a record of writers who are all trusted alike.
pub(crate) fn put(store: &dyn Store, record: &SealedRecord) {
    store.put_record(record, &Trust::default()).unwrap();
}

/// Reads a blob to its end; `None` when it is not there or turns out to be damaged.
pub(crate) fn read(store: &dyn Store, blob: &Digest) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match store.open_blob(blob).unwrap()?.read_to_end(&mut bytes) {
        Ok(_) => Some(bytes),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
            None
        }
    }
}
