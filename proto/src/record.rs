//! Records as they are stored and sent: version, body, signature of the body by its writer.
//!
//! The signature is over the bytes as they came, never over a re-encoding, so a record can pass
//! through agents that understand it and arrive as it was written.

use crate::codec::{self, DecodeError};
use bincode::{Decode, Encode};
use netbuild_core::{
    cache::NewRecord,
    digest::{Digest, Hash},
    hlc::Hlc,
    key::ActionKey,
    ledger::Item,
    merge::Version,
    peer::{Identity, PeerId},
    record::{ActionResult, Execution, MAX_OUTPUTS, Output, OutputKind, Record, Sandbox},
};
use std::sync::Arc;

/// Version of the format, the first byte of every sealed record. Records of version 1 know the level `env`
/// only; those that need no more are still written so, and agents that know no more take them.
const VERSION: u8 = 2;
const WITH_ENV_ONLY: u8 = 1;
/// Prefix of what is signed, so that the signature is good for nothing else.
const DOMAIN: &[u8] = b"netbuild record v1\0";
/// Most bytes of a sealed record: [`MAX_OUTPUTS`] outputs with paths of ordinary length, and room.
pub const MAX_RECORD: usize = 256 * 1024;

/// Longest region name in bytes.
pub const MAX_REGION: usize = 64;

#[derive(Encode, Decode)]
pub(crate) struct DigestV1 {
    hash: [u8; 32],
    size: u64,
}

impl From<Digest> for DigestV1 {
    fn from(digest: Digest) -> Self {
        Self { hash: digest.hash.0, size: digest.size }
    }
}

impl From<DigestV1> for Digest {
    fn from(digest: DigestV1) -> Self {
        Self { hash: Hash(digest.hash), size: digest.size }
    }
}

#[derive(Encode, Decode)]
pub(crate) enum KindV1 {
    File { digest: DigestV1, executable: bool },
    Symlink { target: Vec<u8> },
    Tree { listing: DigestV1 },
    Files { listing: DigestV1 },
    Absent,
}

#[derive(Encode, Decode)]
pub(crate) struct OutputV1 {
    path: Vec<u8>,
    kind: KindV1,
}

#[derive(Encode, Decode)]
pub(crate) enum SandboxV1 {
    Env,
    // Since version 2.
    Loose,
    Audit,
    Stage,
    Landlock,
    Ns,
}

impl From<Sandbox> for SandboxV1 {
    fn from(level: Sandbox) -> Self {
        match level {
            Sandbox::Loose => Self::Loose,
            Sandbox::Env => Self::Env,
            Sandbox::Audit => Self::Audit,
            Sandbox::Stage => Self::Stage,
            Sandbox::Landlock => Self::Landlock,
            Sandbox::Ns => Self::Ns,
        }
    }
}

impl From<SandboxV1> for Sandbox {
    fn from(level: SandboxV1) -> Self {
        match level {
            SandboxV1::Loose => Self::Loose,
            SandboxV1::Env => Self::Env,
            SandboxV1::Audit => Self::Audit,
            SandboxV1::Stage => Self::Stage,
            SandboxV1::Landlock => Self::Landlock,
            SandboxV1::Ns => Self::Ns,
        }
    }
}

/// The oldest version that can say what an execution was.
fn version_of(execution: &Execution) -> u8 {
    match (execution.sandbox_asked, execution.sandbox_obtained) {
        (Sandbox::Env, Sandbox::Env) => WITH_ENV_ONLY,
        _ => VERSION,
    }
}

#[derive(Encode, Decode)]
struct ResultV1 {
    exit_code: i32,
    outputs: Vec<OutputV1>,
    log: Option<DigestV1>,
}

#[derive(Encode, Decode)]
struct ExecutionV1 {
    duration_ms: u64,
    finished_at_ms: u64,
    sandbox_asked: SandboxV1,
    sandbox_obtained: SandboxV1,
    tools: Vec<String>,
    netbuild_version: String,
    flaky: bool,
    drift_checked: bool,
    bound_to: Option<[u8; 32]>,
    local: bool,
}

/// A result that is not signed yet: what a runner tells the agent next to it.
#[derive(Encode, Decode)]
pub(crate) struct NewRecordV1 {
    key: [u8; 32],
    result: ResultV1,
    execution: ExecutionV1,
}

#[derive(Encode, Decode)]
struct RecordV1 {
    new: NewRecordV1,
    writer: [u8; 32],
    region: String,
    hlc: u64,
}

/// A record with the signed bytes it came in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SealedRecord {
    bytes: Arc<[u8]>,
    record: Arc<Record>,
}

impl PartialEq for SealedRecord {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for SealedRecord {}

/// A record of ours is too large to be kept.
#[derive(Debug, thiserror::Error)]
#[error("record of {0} bytes is over the limit of {MAX_RECORD}")]
pub struct RecordTooLarge(usize);

impl SealedRecord {
    /// Signs a record. `record.writer` must be the identity's peer id.
    pub fn seal(record: Record, identity: &Identity) -> Result<Self, RecordTooLarge> {
        debug_assert_eq!(record.writer, identity.peer_id());
        let mut bytes = vec![version_of(&record.execution)];
        bytes.extend(codec::encode(&to_wire(&record)));
        let signature = identity.sign(&[DOMAIN, &bytes].concat());
        bytes.extend_from_slice(&signature);
        if bytes.len() > MAX_RECORD || record.result.outputs.len() > MAX_OUTPUTS {
            return Err(RecordTooLarge(bytes.len()));
        }
        Ok(Self { bytes: bytes.into(), record: Arc::new(record) })
    }

    /// Checks version, limits, paths and the writer's signature.
    pub fn open(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (opened, signed, signature) = Self::read(bytes)?;
        let Record { key, writer, .. } = opened.record();
        if !writer.verify(&[DOMAIN, signed].concat(), signature) {
            return Err(DecodeError::Invalid(format!(
                "record {} is not signed by its writer {}",
                key.short(),
                writer.short()
            )));
        }
        Ok(opened)
    }

    /// Like [`SealedRecord::open`], but believes the signature. Only for bytes that
    /// [`SealedRecord::open`] accepted or [`SealedRecord::seal`] made, and that are unchanged since.
    pub fn reopen(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read(bytes).map(|(opened, _, _)| opened)
    }

    /// The record with the part that is signed and the signature, which is not checked.
    fn read(bytes: &[u8]) -> Result<(Self, &[u8], &[u8; 64]), DecodeError> {
        if bytes.len() > MAX_RECORD {
            return Err(DecodeError::TooLong { len: bytes.len(), limit: MAX_RECORD });
        }
        let (signed, signature) = bytes
            .split_last_chunk::<64>()
            .ok_or_else(|| DecodeError::Malformed("shorter than a signature".into()))?;
        let (version, body) = match signed.split_first() {
            Some((&version @ (WITH_ENV_ONLY | VERSION), body)) => (version, body),
            Some((&version, _)) => {
                return Err(DecodeError::unknown_version("record", version, VERSION));
            }
            None => return Err(DecodeError::Malformed("no more than a signature".into())),
        };
        let record = from_wire(codec::decode::<RecordV1, MAX_RECORD>(body)?)?;
        if version != version_of(&record.execution) {
            return Err(DecodeError::Invalid(format!(
                "levels that version {version} does not say"
            )));
        }
        Ok((Self { bytes: bytes.into(), record: Arc::new(record) }, signed, signature))
    }

    /// The record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The bytes that [`SealedRecord::open`] takes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3 of the bytes: which version of the record it is.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.bytes)
    }

    /// The version as it is announced and reconciled.
    pub fn item(&self) -> Item {
        Item { key: self.record.key, hlc: self.record.hlc, sum: sum_of(&self.hash()) }
    }

    /// The version as it is merged.
    pub fn version(&self) -> Version {
        Version::of(&self.record, self.hash())
    }
}

/// The short form of the hash of a sealed record: its first 8 bytes, little-endian.
pub fn sum_of(hash: &Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn to_wire(record: &Record) -> RecordV1 {
    RecordV1 {
        new: NewRecordV1 {
            key: record.key.0,
            result: result_to_wire(&record.result),
            execution: execution_to_wire(&record.execution),
        },
        writer: record.writer.0,
        region: record.region.clone(),
        hlc: record.hlc.0,
    }
}

fn result_to_wire(result: &ActionResult) -> ResultV1 {
    ResultV1 {
        exit_code: result.exit_code,
        outputs: result.outputs.iter().map(output_to_wire).collect(),
        log: result.log.map(DigestV1::from),
    }
}

fn execution_to_wire(execution: &Execution) -> ExecutionV1 {
    ExecutionV1 {
        duration_ms: execution.duration_ms,
        finished_at_ms: execution.finished_at_ms,
        sandbox_asked: execution.sandbox_asked.into(),
        sandbox_obtained: execution.sandbox_obtained.into(),
        tools: execution.tools.clone(),
        netbuild_version: execution.netbuild_version.clone(),
        flaky: execution.flaky,
        drift_checked: execution.drift_checked,
        bound_to: execution.bound_to.map(|hash| hash.0),
        local: execution.local,
    }
}

impl From<&NewRecord> for NewRecordV1 {
    fn from(record: &NewRecord) -> Self {
        Self {
            key: record.key.0,
            result: result_to_wire(&record.result),
            execution: execution_to_wire(&record.execution),
        }
    }
}

impl TryFrom<NewRecordV1> for NewRecord {
    type Error = DecodeError;

    fn try_from(wire: NewRecordV1) -> Result<Self, DecodeError> {
        let NewRecordV1 { key, result, execution } = wire;
        if result.outputs.len() > MAX_OUTPUTS {
            return Err(DecodeError::Invalid(format!("{} outputs", result.outputs.len())));
        }
        Ok(Self {
            key: ActionKey(key),
            result: ActionResult {
                exit_code: result.exit_code,
                outputs: result
                    .outputs
                    .into_iter()
                    .map(output_from_wire)
                    .collect::<Result<_, _>>()?,
                log: result.log.map(Digest::from),
            },
            execution: Execution {
                duration_ms: execution.duration_ms,
                finished_at_ms: execution.finished_at_ms,
                sandbox_asked: execution.sandbox_asked.into(),
                sandbox_obtained: execution.sandbox_obtained.into(),
                tools: execution.tools,
                netbuild_version: execution.netbuild_version,
                flaky: execution.flaky,
                drift_checked: execution.drift_checked,
                bound_to: execution.bound_to.map(Hash),
                local: execution.local,
            },
        })
    }
}

pub(crate) fn output_to_wire(output: &Output) -> OutputV1 {
    let kind = match &output.kind {
        OutputKind::File { digest, executable } => {
            KindV1::File { digest: (*digest).into(), executable: *executable }
        }
        OutputKind::Symlink { target } => KindV1::Symlink { target: target.clone() },
        OutputKind::Tree { listing } => KindV1::Tree { listing: (*listing).into() },
        OutputKind::Files { listing } => KindV1::Files { listing: (*listing).into() },
        OutputKind::Absent => KindV1::Absent,
    };
    OutputV1 { path: output.path.clone(), kind }
}

fn from_wire(wire: RecordV1) -> Result<Record, DecodeError> {
    check_region(&wire.region)?;
    let NewRecord { key, result, execution } = wire.new.try_into()?;
    Ok(Record {
        key,
        result,
        execution,
        writer: PeerId(wire.writer),
        region: wire.region,
        hlc: Hlc(wire.hlc),
    })
}

pub(crate) fn output_from_wire(wire: OutputV1) -> Result<Output, DecodeError> {
    check_path(&wire.path)?;
    let kind = match wire.kind {
        KindV1::File { digest, executable } => {
            OutputKind::File { digest: digest.into(), executable }
        }
        KindV1::Symlink { target } => OutputKind::Symlink { target },
        KindV1::Tree { listing } => OutputKind::Tree { listing: listing.into() },
        KindV1::Files { listing } => OutputKind::Files { listing: listing.into() },
        KindV1::Absent => OutputKind::Absent,
    };
    Ok(Output { path: wire.path, kind })
}

/// A path that stays where it is put: relative, no empty name, no `.` or `..`, no NUL.
pub(crate) fn check_path(path: &[u8]) -> Result<(), DecodeError> {
    let fine = path.len() < 4096
        && !path.contains(&0)
        && path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
    if fine {
        return Ok(());
    }
    Err(DecodeError::Invalid(format!("path `{}`", path.escape_ascii())))
}

/// Letters, digits, `.`, `_` and `-`, at most [`MAX_REGION`] bytes; empty means none.
pub fn check_region(region: &str) -> Result<(), DecodeError> {
    let fine = region.len() <= MAX_REGION
        && region.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fine {
        return Ok(());
    }
    Err(DecodeError::Invalid(format!("region `{}`", region.escape_debug())))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn record(identity: &Identity) -> Record {
        let digest = Digest::of(b"content");
        let output = |path: &str, kind| Output { path: path.into(), kind };
        Record {
            key: ActionKey([9; 32]),
            result: ActionResult {
                exit_code: 0,
                outputs: vec![
                    output("bin/api", OutputKind::File { digest, executable: true }),
                    output("bin/link", OutputKind::Symlink { target: b"api".to_vec() }),
                    output("dist", OutputKind::Tree { listing: digest }),
                    output("gone", OutputKind::Absent),
                ],
                log: Some(digest),
            },
            execution: Execution {
                duration_ms: 1234,
                finished_at_ms: 1_795_000_000_000,
                sandbox_asked: Sandbox::Env,
                sandbox_obtained: Sandbox::Env,
                tools: vec!["rustc".into()],
                netbuild_version: "0.1.0".into(),
                flaky: false,
                drift_checked: true,
                bound_to: None,
                local: false,
            },
            writer: identity.peer_id(),
            region: "us-east".into(),
            hlc: Hlc(1 << 16),
        }
    }

    #[test]
    fn the_format_is_pinned() {
        let sealed = SealedRecord::seal(
            record(&Identity::from_seed(&[1; 32])),
            &Identity::from_seed(&[1; 32]),
        )
        .unwrap();
        assert_eq!(
            Digest::of(sealed.as_bytes()).to_string(),
            "a49fdac6da80904ac9825647c9f98bb58e71cfc076654e311bf070c4f4520616/311"
        );
    }

    #[test]
    fn the_format_of_other_levels_is_pinned_and_told_from_that_of_env() {
        let identity = Identity::from_seed(&[1; 32]);
        let mut record = record(&identity);
        record.execution.sandbox_asked = Sandbox::Ns;
        for level in Sandbox::ALL {
            record.execution.sandbox_obtained = level;
            let sealed = SealedRecord::seal(record.clone(), &identity).unwrap();
            assert_eq!(SealedRecord::open(sealed.as_bytes()).unwrap().record(), &record);
            let mut older = sealed.as_bytes().to_vec();
            older[0] = WITH_ENV_ONLY;
            assert!(SealedRecord::reopen(&older).is_err());
        }
        let sealed = SealedRecord::seal(record, &identity).unwrap();
        assert_eq!(
            Digest::of(sealed.as_bytes()).to_string(),
            "6b7869a93dffc817ec0d46b8f0ea98737a1bb276385112557e3e7c29c1076390/311"
        );
    }

    #[test]
    fn a_sealed_record_opens_to_what_was_sealed() {
        let identity = Identity::from_seed(&[1; 32]);
        let sealed = SealedRecord::seal(record(&identity), &identity).unwrap();
        let opened = SealedRecord::open(sealed.as_bytes()).unwrap();
        assert_eq!(opened.record(), &record(&identity));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let identity = Identity::from_seed(&[1; 32]);
        let sealed = SealedRecord::seal(record(&identity), &identity).unwrap();
        for bit in 0..sealed.as_bytes().len() * 8 {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SealedRecord::open(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_garbage() {
        let identity = Identity::from_seed(&[1; 32]);
        let sealed = SealedRecord::seal(record(&identity), &identity).unwrap();
        let with_version = |version| {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[0] = version;
            SealedRecord::open(&bytes)
        };
        let newer = with_version(3).unwrap_err();
        assert_eq!(newer.to_string(), "record of version 3, which is newer than this netbuild");
        assert!(matches!(newer, DecodeError::Newer { .. }));
        assert!(matches!(with_version(0), Err(DecodeError::Invalid(_))));
    }

    #[test]
    fn what_was_checked_once_opens_again_without_its_signature() {
        let identity = Identity::from_seed(&[1; 32]);
        let sealed = SealedRecord::seal(record(&identity), &identity).unwrap();
        let again = SealedRecord::reopen(sealed.as_bytes()).unwrap();
        assert_eq!((again.record(), again.item()), (sealed.record(), sealed.item()));
        assert_eq!(again.item().sum.to_le_bytes(), again.hash().0[..8]);
        assert!(SealedRecord::reopen(&sealed.as_bytes()[..60]).is_err());
    }

    #[test]
    fn paths_that_escape_are_refused_even_when_signed() {
        let identity = Identity::from_seed(&[1; 32]);
        for path in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b"] {
            let mut record = record(&identity);
            record.result.outputs[0].path = path.into();
            let sealed = SealedRecord::seal(record, &identity).unwrap();
            assert!(SealedRecord::open(sealed.as_bytes()).is_err(), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = (SealedRecord::open(&bytes), SealedRecord::reopen(&bytes));
        }
    }
}
