//! What was done about the tasks of a workspace, one frame for each turn, appended to a file that has
//! a secret of its own in its header. Losing it costs an explanation and nothing else.
//!
//! A frame that was cut, as by a kill, is passed over: the next one begins with
//! bytes that tell it.

use crate::codec::{self, DecodeError};
use bincode::{Decode, Encode};
use netbuild_core::{
    backend::{TierKind, TierName},
    cache::Source,
    digest::Hash,
    explain::{Cause, Deed, Ingredients, InputKind, InputMark, MAX_INPUTS, Mark, RunEnd, Turn},
    key::{ActionKey, OutputDeclaration, OutputShape, Platform, ToolMode},
    peer::PeerId,
};
use std::collections::{BTreeMap, HashMap};

/// First bytes of the file; the number is the format's.
const MAGIC: &[u8; 16] = b"netbuild turns 1";
/// Bytes of the header: the magic and the secret.
pub const HEADER: usize = 16 + 32;
/// First bytes of each frame.
const SYNC: &[u8; 8] = b"\xf7turn\x00\xffn";
/// Bytes of a frame before its content: these, the task, the length and the check.
const FRAME: usize = 8 + 8 + 4 + 16;
/// Most bytes of the content of a frame.
const MAX_TURN: usize = 32 * 1024 * 1024;
/// Turns of a task that are worth keeping when space is short.
const KEPT: usize = 4;

#[derive(Encode, Decode)]
struct InputV1 {
    /// How many bytes of the path are those of the one before.
    shared: u64,
    rest: Vec<u8>,
    kind: u8,
    content: u64,
}

#[derive(Encode, Decode)]
struct PlatformV1 {
    os: String,
    arch: String,
    libc: Option<String>,
}

#[derive(Encode, Decode)]
enum SourceV1 {
    Disk,
    Peer { peer: [u8; 32], region: String },
    Tier { kind: u8, place: String },
}

#[derive(Encode, Decode)]
enum CauseV1 {
    NeverCached,
    InputsUnknown,
    NoRecord,
    BoundElsewhere,
    CacheFailed(String),
    NotRestored(String),
    RanOver(String),
    SoonerBuilt(String),
}

#[derive(Encode, Decode)]
enum EndV1 {
    Kept,
    NotKept(String),
    Failed(String),
}

#[derive(Encode, Decode)]
enum DeedV1 {
    Restored { source: SourceV1, bytes: u64 },
    Ran { cause: CauseV1, end: EndV1 },
}

#[derive(Encode, Decode)]
struct TurnV1 {
    task: String,
    at_ms: u64,
    took_ms: u64,
    key: [u8; 32],
    salts: [Option<[u8; 16]>; 3],
    argv: Vec<String>,
    working_dir: String,
    env: Vec<(String, [u8; 16])>,
    pass_env: Vec<(String, Option<[u8; 16]>)>,
    secret_env: Vec<String>,
    platform: Option<PlatformV1>,
    tools: Vec<(String, u8, [u8; 32])>,
    inputs: Option<Vec<InputV1>>,
    input_root: [u8; 32],
    outputs: Vec<(String, u8, bool)>,
    clean: bool,
    deed: DeedV1,
}

/// The header of a new file.
pub fn header(secret: &[u8; 32]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(MAGIC);
    header[16..].copy_from_slice(secret);
    header
}

/// The secret of a file by its first bytes; `None` when they are no header of this version.
pub fn secret(start: &[u8]) -> Option<[u8; 32]> {
    start.strip_prefix(MAGIC)?.first_chunk().copied()
}

/// The frame of a turn, to be appended.
pub fn frame(turn: &Turn) -> Vec<u8> {
    let content = codec::encode(&to_wire(turn));
    let mut frame = Vec::with_capacity(FRAME + content.len());
    frame.extend_from_slice(SYNC);
    frame.extend_from_slice(&task_mark(&turn.task));
    frame.extend_from_slice(&(content.len() as u32).to_le_bytes());
    frame.extend_from_slice(&check(&content));
    frame.extend_from_slice(&content);
    frame
}

/// The turns of one task in a file, in the order in which they were appended. What is damaged is
/// passed over.
pub fn turns(file: &[u8], task: &str) -> Vec<Turn> {
    let mark = task_mark(task);
    let of_task = frames(file).filter(|frame| frame.task == mark);
    of_task.filter_map(|frame| frame.turn().ok()).filter(|turn| turn.task == task).collect()
}

/// The file again with the latest turns of each task, in at most `budget` bytes, the latest of all
/// first to stay; `None` when it has no header of this version.
pub fn compact(file: &[u8], budget: usize) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    let mut of_task: HashMap<[u8; 8], usize> = HashMap::new();
    let mut left = budget.saturating_sub(HEADER);
    let all: Vec<_> = frames(file).collect();
    for frame in all.iter().rev() {
        let count = of_task.entry(frame.task).or_default();
        *count += 1;
        if *count > KEPT {
            continue;
        }
        left = match left.checked_sub(frame.whole.len()) {
            Some(left) => left,
            None => break,
        };
        kept.push(frame.whole);
    }
    let mut compacted = header(&secret(file)?).to_vec();
    kept.iter().rev().for_each(|frame| compacted.extend_from_slice(frame));
    Some(compacted)
}

struct Frame<'a> {
    task: [u8; 8],
    whole: &'a [u8],
}

impl Frame<'_> {
    fn turn(&self) -> Result<Turn, DecodeError> {
        from_wire(codec::decode::<TurnV1, MAX_TURN>(&self.whole[FRAME..])?)
    }
}

fn frames(file: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = if secret(file).is_some() { &file[HEADER..] } else { &[] };
    std::iter::from_fn(move || {
        while rest.len() >= FRAME {
            if let Some(frame) = first_frame(rest) {
                rest = &rest[frame.whole.len()..];
                return Some(frame);
            }
            let next = rest[1..].iter().position(|byte| *byte == SYNC[0]);
            rest = next.map_or(&[], |at| &rest[1 + at..]);
        }
        None
    })
}

/// The frame that the bytes begin with, if they do with a whole one.
fn first_frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let rest = bytes.strip_prefix(SYNC)?;
    let (task, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (expected, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let content = rest.get(..length).filter(|_| length <= MAX_TURN)?;
    (check(content) == *expected).then(|| Frame { task: *task, whole: &bytes[..FRAME + length] })
}

fn task_mark(task: &str) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = Hash::of(task.as_bytes()).0;
    [a, b, c, d, e, f, g, h]
}

fn check(content: &[u8]) -> [u8; 16] {
    let mut check = [0; 16];
    check.copy_from_slice(&Hash::of(content).0[..16]);
    check
}

fn to_wire(turn: &Turn) -> TurnV1 {
    let of = &turn.ingredients;
    TurnV1 {
        task: turn.task.clone(),
        at_ms: turn.at_ms,
        took_ms: turn.took_ms,
        key: turn.key.0,
        salts: of.salts.map(|salt| Some(salt?.0)),
        argv: of.argv.clone(),
        working_dir: of.working_dir.clone(),
        env: of.env.iter().map(|(name, mark)| (name.clone(), mark.0)).collect(),
        pass_env: of
            .pass_env
            .iter()
            .map(|(name, mark)| (name.clone(), mark.map(|m| m.0)))
            .collect(),
        secret_env: of.secret_env.iter().cloned().collect(),
        platform: of.platform.clone().map(|Platform { os, arch, libc }| PlatformV1 {
            os,
            arch,
            libc,
        }),
        tools: of
            .tools
            .iter()
            .map(|(name, (mode, hash))| (name.clone(), mode_to_wire(*mode), hash.0))
            .collect(),
        inputs: of.inputs.as_ref().map(inputs_to_wire),
        input_root: of.input_root.0,
        outputs: of
            .outputs
            .iter()
            .map(|output| (output.pattern.clone(), shape_to_wire(output.shape), output.optional))
            .collect(),
        clean: of.clean,
        deed: deed_to_wire(&turn.deed),
    }
}

fn from_wire(wire: TurnV1) -> Result<Turn, DecodeError> {
    let tools = wire.tools.into_iter().map(|(name, mode, hash)| {
        let mode = match mode {
            1 => ToolMode::Path,
            2 => ToolMode::Version,
            3 => ToolMode::Value,
            other => return Err(unknown("mode of a tool", other)),
        };
        Ok((name, (mode, Hash(hash))))
    });
    let outputs = wire.outputs.into_iter().map(|(pattern, shape, optional)| {
        let shape = match shape {
            1 => OutputShape::Path,
            2 => OutputShape::Tree,
            3 => OutputShape::Glob,
            other => return Err(unknown("shape of an output", other)),
        };
        Ok(OutputDeclaration { pattern, shape, optional })
    });
    let ingredients = Ingredients {
        salts: wire.salts.map(|salt| Some(Mark(salt?))),
        argv: wire.argv,
        working_dir: wire.working_dir,
        env: wire.env.into_iter().map(|(name, mark)| (name, Mark(mark))).collect(),
        pass_env: wire.pass_env.into_iter().map(|(name, mark)| (name, mark.map(Mark))).collect(),
        secret_env: wire.secret_env.into_iter().collect(),
        platform: wire.platform.map(|PlatformV1 { os, arch, libc }| Platform { os, arch, libc }),
        tools: tools.collect::<Result<_, _>>()?,
        inputs: wire.inputs.map(inputs_from_wire).transpose()?,
        input_root: Hash(wire.input_root),
        outputs: outputs.collect::<Result<_, _>>()?,
        clean: wire.clean,
    };
    Ok(Turn {
        task: wire.task,
        at_ms: wire.at_ms,
        took_ms: wire.took_ms,
        key: ActionKey(wire.key),
        ingredients,
        deed: deed_from_wire(wire.deed)?,
    })
}

fn unknown(what: &str, number: u8) -> DecodeError {
    DecodeError::Invalid(format!("unknown {what}: {number}"))
}

fn mode_to_wire(mode: ToolMode) -> u8 {
    match mode {
        ToolMode::Path => 1,
        ToolMode::Version => 2,
        ToolMode::Value => 3,
    }
}

fn shape_to_wire(shape: OutputShape) -> u8 {
    match shape {
        OutputShape::Path => 1,
        OutputShape::Tree => 2,
        OutputShape::Glob => 3,
    }
}

fn inputs_to_wire(inputs: &BTreeMap<Vec<u8>, InputMark>) -> Vec<InputV1> {
    let mut last: &[u8] = b"";
    let mut wire = Vec::with_capacity(inputs.len());
    for (path, mark) in inputs {
        let shared = last.iter().zip(path).take_while(|(a, b)| a == b).count();
        let kind = match mark.kind {
            InputKind::File => 1,
            InputKind::Executable => 2,
            InputKind::Symlink => 3,
            InputKind::Directory => 4,
        };
        let (content, rest) = (mark.content, path[shared..].to_vec());
        wire.push(InputV1 { shared: shared as u64, rest, kind, content });
        last = path;
    }
    wire
}

fn inputs_from_wire(wire: Vec<InputV1>) -> Result<BTreeMap<Vec<u8>, InputMark>, DecodeError> {
    if wire.len() > MAX_INPUTS {
        return Err(DecodeError::TooLong { len: wire.len(), limit: MAX_INPUTS });
    }
    let mut last = Vec::new();
    let mut inputs = BTreeMap::new();
    for InputV1 { shared, rest, kind, content } in wire {
        let kind = match kind {
            1 => InputKind::File,
            2 => InputKind::Executable,
            3 => InputKind::Symlink,
            4 => InputKind::Directory,
            other => return Err(unknown("kind of an input", other)),
        };
        let shared = usize::try_from(shared).unwrap_or(usize::MAX).min(last.len());
        last.truncate(shared);
        last.extend_from_slice(&rest);
        inputs.insert(last.clone(), InputMark { kind, content });
    }
    Ok(inputs)
}

fn deed_to_wire(deed: &Deed) -> DeedV1 {
    match deed.clone() {
        Deed::Restored { source, bytes } => DeedV1::Restored {
            source: match source {
                Source::Disk => SourceV1::Disk,
                Source::Peer { peer, region } => SourceV1::Peer { peer: peer.0, region },
                Source::Tier(TierName { kind, place }) => {
                    let kind = match kind {
                        TierKind::Redis => 1,
                        TierKind::S3 => 2,
                        TierKind::Memory => 3,
                    };
                    SourceV1::Tier { kind, place }
                }
            },
            bytes,
        },
        Deed::Ran { cause, end } => DeedV1::Ran {
            cause: match cause {
                Cause::NeverCached => CauseV1::NeverCached,
                Cause::InputsUnknown => CauseV1::InputsUnknown,
                Cause::NoRecord => CauseV1::NoRecord,
                Cause::BoundElsewhere => CauseV1::BoundElsewhere,
                Cause::CacheFailed(why) => CauseV1::CacheFailed(why),
                Cause::NotRestored(why) => CauseV1::NotRestored(why),
                Cause::RanOver(why) => CauseV1::RanOver(why),
                Cause::SoonerBuilt(why) => CauseV1::SoonerBuilt(why),
            },
            end: match end {
                RunEnd::Kept => EndV1::Kept,
                RunEnd::NotKept(why) => EndV1::NotKept(why),
                RunEnd::Failed(why) => EndV1::Failed(why),
            },
        },
    }
}

fn deed_from_wire(wire: DeedV1) -> Result<Deed, DecodeError> {
    Ok(match wire {
        DeedV1::Restored { source, bytes } => {
            let source = match source {
                SourceV1::Disk => Source::Disk,
                SourceV1::Peer { peer, region } => Source::Peer { peer: PeerId(peer), region },
                SourceV1::Tier { kind, place } => {
                    let kind = match kind {
                        1 => TierKind::Redis,
                        2 => TierKind::S3,
                        3 => TierKind::Memory,
                        other => return Err(unknown("kind of a tier", other)),
                    };
                    Source::Tier(TierName { kind, place })
                }
            };
            Deed::Restored { source, bytes }
        }
        DeedV1::Ran { cause, end } => Deed::Ran {
            cause: match cause {
                CauseV1::NeverCached => Cause::NeverCached,
                CauseV1::InputsUnknown => Cause::InputsUnknown,
                CauseV1::NoRecord => Cause::NoRecord,
                CauseV1::BoundElsewhere => Cause::BoundElsewhere,
                CauseV1::CacheFailed(why) => Cause::CacheFailed(why),
                CauseV1::NotRestored(why) => Cause::NotRestored(why),
                CauseV1::RanOver(why) => Cause::RanOver(why),
                CauseV1::SoonerBuilt(why) => Cause::SoonerBuilt(why),
            },
            end: match end {
                EndV1::Kept => RunEnd::Kept,
                EndV1::NotKept(why) => RunEnd::NotKept(why),
                EndV1::Failed(why) => RunEnd::Failed(why),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(task: &str, at_ms: u64) -> Turn {
        let mark = |content| InputMark { kind: InputKind::Executable, content };
        Turn {
            task: task.into(),
            at_ms,
            took_ms: 2,
            key: ActionKey([3; 32]),
            ingredients: Ingredients {
                salts: [None, Some(Mark([4; 16])), None],
                argv: vec!["sh".into()],
                working_dir: ".".into(),
                env: [("A".into(), Mark([5; 16]))].into(),
                pass_env: [("B".into(), None), ("C".into(), Some(Mark([6; 16])))].into(),
                secret_env: ["S".into()].into(),
                platform: Some(Platform { os: "o".into(), arch: "a".into(), libc: None }),
                tools: [("t".into(), (ToolMode::Value, Hash([7; 32])))].into(),
                inputs: Some([(b"a/b".to_vec(), mark(1)), (b"a/c".to_vec(), mark(2))].into()),
                input_root: Hash([8; 32]),
                outputs: [OutputDeclaration {
                    pattern: "o".into(),
                    shape: OutputShape::Glob,
                    optional: true,
                }]
                .into(),
                clean: true,
            },
            deed: Deed::Restored {
                source: Source::Peer { peer: PeerId([9; 32]), region: "us-east".into() },
                bytes: 10,
            },
        }
    }

    fn file(turns: &[Turn]) -> Vec<u8> {
        let mut file = header(&[1; 32]).to_vec();
        turns.iter().for_each(|turn| file.extend(frame(turn)));
        file
    }

    #[test]
    fn turns_read_back_and_damaged_ones_are_passed_over() {
        let (one, two, other) = (turn("t", 1), turn("t", 2), turn("u", 3));
        let whole = file(&[one.clone(), other.clone(), two.clone()]);
        assert_eq!(turns(&whole, "t"), [one.clone(), two.clone()]);
        assert_eq!(turns(&whole, "u"), std::slice::from_ref(&other));
        assert_eq!(secret(&whole), Some([1; 32]));
        let first = HEADER..HEADER + frame(&one).len();
        for at in first.clone() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert_eq!(turns(&bad, "t"), std::slice::from_ref(&two), "byte {at}");
        }
        for cut in first {
            let torn = [&whole[..cut], &frame(&two)].concat();
            assert_eq!(turns(&torn, "t"), std::slice::from_ref(&two), "cut at {cut}");
        }
        assert_eq!(turns(b"something else", "t"), []);
    }

    #[test]
    fn a_compacted_file_has_the_latest_turns_of_each_task() {
        let many: Vec<_> = (0..20).flat_map(|at| [turn("t", at), turn("u", at)]).collect();
        let whole = file(&many);
        let compacted = compact(&whole, usize::MAX).unwrap();
        let times: Vec<_> = turns(&compacted, "u").iter().map(|turn| turn.at_ms).collect();
        assert_eq!(times, [16, 17, 18, 19]);
        let one = frame(&many[0]).len();
        let small = compact(&whole, HEADER + 3 * one).unwrap();
        assert_eq!(small.len(), HEADER + 3 * one);
        assert_eq!((turns(&small, "t").len(), turns(&small, "u").len()), (1, 2));
        assert_eq!(secret(&small), Some([1; 32]));
        assert_eq!(compact(b"something else", 1), None);
    }
}
