//! `netbuild get`.

use super::{parse_digest, print_json};
use crate::{
    args::GetArgs,
    errors::CliError,
    moving::{self, Line},
    settings,
    text::{count, size},
};
use netbuild_core::{
    cache::{Cache, Fetched, FetchedAll},
    digest::{Digest, ParseDigestError},
    moved::Watch,
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// Most bytes of a list of digests: some 800,000 of them.
const MAX_LIST: u64 = 64 << 20;
/// Longest list of missing digests in an error.
const SHOWN_MISSING: usize = 3;

/// Where blobs are written.
enum Target<'a> {
    Stdout,
    File(&'a Path),
    /// Into files that are named by the hashes.
    Directory(&'a Path),
}

pub(crate) fn get(args: &GetArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let digests = wanted(args)?;
    let target = match (&args.output, &args.output_dir) {
        (Some(file), _) => Target::File(file),
        (_, Some(directory)) => Target::Directory(directory),
        (None, None) => Target::Stdout,
    };
    let session = super::session(&settings)?;
    let name = match digests.as_slice() {
        [digest] => digest.hash.short(),
        several => count(several.len() as u64, "blob"),
    };
    let line = Line::new(name, args.quiet);
    let began = Instant::now();
    let got = bring(&session, &digests, &target, &line);
    line.clear();
    let got = got?;
    let seconds = thousandths(began.elapsed().as_secs_f64());
    if !args.quiet && got.blobs > 0 {
        let text = format!("{}{}\n", came(&got), moving::took(&got.fetched.movement, seconds));
        // A closed standard error is no reason to fail.
        drop(io::stderr().lock().write_all(text.as_bytes()));
    }
    if args.json && (matches!(target, Target::Directory(_)) || got.missing.is_empty()) {
        print_json(&to_json(&target, &digests, &got, seconds));
    }
    match got.missing.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        missing => Err(not_had(missing, digests.len())),
    }
}

/// The digests of the command line and of the list, each once.
fn wanted(args: &GetArgs) -> Result<Vec<Digest>, CliError> {
    let mut digests =
        args.digests.iter().map(|text| parse_digest(text)).collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = &args.from_file {
        digests.extend(read_list(path)?);
    }
    let mut seen = BTreeSet::new();
    digests.retain(|digest| seen.insert(*digest));
    if digests.is_empty() {
        return Err(CliError::wrong("the list names no digest"));
    }
    if digests.len() > 1 && args.output_dir.is_none() {
        return Err(CliError::wrong("several blobs do not go into one file")
            .hint("name a directory for them with --output-dir"));
    }
    Ok(digests)
}

/// A list of digests, one a line.
fn read_list(path: &Path) -> Result<Vec<Digest>, CliError> {
    let failed = |error: io::Error| CliError::io("read", path, &error);
    let list: Box<dyn io::Read> = match path {
        path if path == Path::new("-") => Box::new(io::stdin()),
        path => Box::new(File::open(path).map_err(failed)?),
    };
    let mut text = String::new();
    let length = list.take(MAX_LIST + 1).read_to_string(&mut text).map_err(failed)?;
    if length as u64 > MAX_LIST {
        return Err(failed(io::Error::other("the list is longer than 64 MiB")));
    }
    parse_list(&text, &path.display().to_string())
}

fn parse_list(text: &str, name: &str) -> Result<Vec<Digest>, CliError> {
    let digest = |(number, line): (usize, &str)| {
        let failed = |error: ParseDigestError| {
            CliError::wrong(format!("line {number} of `{name}`: {error}"))
        };
        line.trim().parse::<Digest>().map_err(failed)
    };
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines.map(digest).collect()
}

/// What came of it.
struct Got {
    /// Blobs that were written, and their bytes.
    blobs: usize,
    bytes: u64,
    missing: Vec<Digest>,
    fetched: Fetched,
}

/// Brings blobs here, all at once, and writes those that can be had.
fn bring(
    cache: &dyn Cache,
    digests: &[Digest],
    target: &Target<'_>,
    watch: &dyn Watch,
) -> Result<Got, CliError> {
    let FetchedAll { missing, fetched } = cache.fetch_all(digests, watch)?;
    let mut got = Got { blobs: 0, bytes: 0, missing, fetched };
    if let Target::Directory(directory) = target {
        std::fs::create_dir_all(directory)
            .map_err(|error| CliError::io("make", directory, &error))?;
    }
    let mut lacking: BTreeSet<Digest> = got.missing.iter().copied().collect();
    for digest in digests {
        if !lacking.contains(digest) {
            if !deliver(cache, digest, target, watch, &mut got.fetched)? {
                lacking.insert(*digest);
                got.missing.push(*digest);
                continue;
            }
            got.blobs += 1;
            got.bytes += digest.size;
        }
    }
    Ok(got)
}

/// Writes a blob that is on this disk. When it turns out to be damaged there, it is put aside and
/// brought anew. Whether it could be had.
fn deliver(
    cache: &dyn Cache,
    digest: &Digest,
    target: &Target<'_>,
    watch: &dyn Watch,
    fetched: &mut Fetched,
) -> Result<bool, CliError> {
    let (path, stream) = match target {
        Target::Stdout => (PathBuf::from("standard output"), true),
        Target::File(path) => (path.to_path_buf(), is_stream(path)),
        Target::Directory(directory) => (directory.join(digest.hash.to_string()), false),
    };
    let write_once = || -> Result<Option<io::Result<()>>, CliError> {
        let Some(mut content) = cache.open(digest)? else { return Ok(None) };
        Ok(Some(match target {
            Target::Stdout => print_blob(&mut *content),
            Target::File(_) | Target::Directory(_) if stream => {
                File::create(&path).and_then(|mut file| io::copy(&mut content, &mut file)).map(drop)
            }
            Target::File(_) | Target::Directory(_) => write(&mut *content, &path),
        }))
    };
    let Some(mut written) = write_once()? else { return Ok(false) };
    // What went into a stream cannot be taken back.
    if !stream && written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
        let Some(again) = cache.fetch(digest, watch)? else { return Ok(false) };
        fetched.movement.merge(&again.movement);
        fetched.seconds += again.seconds;
        match write_once()? {
            Some(again) => written = again,
            None => return Ok(false),
        }
    }
    written.map_err(|error| not_written(digest, &path, &error))?;
    Ok(true)
}

fn print_blob(content: &mut dyn io::Read) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match io::copy(content, &mut stdout).and_then(|_| stdout.flush()) {
        // A reader that has gone away has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Why a blob did not get to `output`, or not whole.
fn not_written(digest: &Digest, output: &Path, error: &io::Error) -> CliError {
    if error.kind() == io::ErrorKind::InvalidData {
        return CliError::failed(format!("blob {digest} is damaged on this disk"))
            .hint("get it again: it was put aside, and another agent may have it");
    }
    CliError::io("write", output, error)
}

/// A device or a pipe is written as it is: there is nothing to be replaced.
fn is_stream(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file())
}

/// Writes a file so that it is there whole or not at all.
fn write(content: &mut dyn io::Read, path: &Path) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".netbuild-{}", std::process::id()));
    let new: PathBuf = path.with_file_name(name);
    let result = File::create_new(&new)
        .and_then(|mut file| io::copy(content, &mut file))
        .and_then(|_| std::fs::rename(&new, path));
    if result.is_err() {
        // It may not even have been made.
        drop(std::fs::remove_file(&new));
    }
    result
}

fn not_had(missing: &[Digest], wanted: usize) -> CliError {
    let shown: Vec<String> =
        missing.iter().take(SHOWN_MISSING).map(|digest| digest.to_string()).collect();
    let more = missing.len().saturating_sub(SHOWN_MISSING);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = match wanted {
        1 => format!("blob {} is not to be had", shown.concat()),
        _ => {
            let (missing, shown) = (missing.len(), shown.join(", "));
            format!("{missing} of {wanted} blobs are not to be had: {shown}{rest}")
        }
    };
    CliError::failed(text)
        .hint("neither this data directory nor a member that can be reached has it")
}

/// The beginning of the line at the end: `got 104.9 MB`.
fn came(got: &Got) -> String {
    match got.blobs {
        1 => format!("got {}", size(got.bytes)),
        several => format!("got {}, {},", count(several as u64, "blob"), size(got.bytes)),
    }
}

fn to_json(target: &Target<'_>, digests: &[Digest], got: &Got, seconds: f64) -> serde_json::Value {
    let mut object = moving::to_json(&got.fetched.movement);
    object.insert("bytes_logical".to_owned(), json!(got.bytes));
    object.insert("seconds".to_owned(), json!(seconds));
    object.insert("transfer_seconds".to_owned(), json!(thousandths(got.fetched.seconds)));
    match (target, digests) {
        (Target::Directory(_), _) => {
            let missing: Vec<String> = got.missing.iter().map(Digest::to_string).collect();
            object.insert("blobs".to_owned(), json!(got.blobs));
            object.insert("missing".to_owned(), json!(missing));
        }
        (_, digests) => {
            let digest = digests.first().map(Digest::to_string);
            object.insert("digest".to_owned(), json!(digest));
        }
    }
    serde_json::Value::Object(object)
}

/// Seconds as they are printed.
fn thousandths(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{
        cache::Source,
        moved::{Movement, Resumed},
    };

    fn got(blobs: usize, missing: Vec<Digest>) -> Got {
        let resumed = Some(Resumed { chunks_here: 60, chunks: 100 });
        let movement = Movement { resumed, ..Movement::default() };
        let fetched = Fetched { source: Source::Disk, movement, seconds: 1.25 };
        Got { blobs, bytes: 5_000_000, missing, fetched }
    }

    #[test]
    fn one_blob_and_many_are_told_as_what_came() {
        assert_eq!(came(&got(1, Vec::new())), "got 5.0 MB");
        assert_eq!(came(&got(12, Vec::new())), "got 12 blobs, 5.0 MB,");
    }

    #[test]
    fn json_of_one_blob_has_its_digest_and_of_a_directory_how_many() {
        let digest = Digest::of(b"");
        let rest = json!({
            "bytes_logical": 5_000_000, "bytes_on_wire": 0, "seconds": 2.5, "transfer_seconds": 1.25,
            "sources": [], "codecs": {}, "resumed": {"chunks_here": 60, "chunks": 100},
            "base": null});
        let with = |more: serde_json::Value| {
            let mut all = rest.clone();
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let file = to_json(&Target::File(Path::new("f")), &[digest], &got(1, Vec::new()), 2.5);
        assert_eq!(file, with(json!({ "digest": digest.to_string() })));
        let many =
            to_json(&Target::Directory(Path::new("d")), &[digest], &got(0, vec![digest]), 2.5);
        assert_eq!(many, with(json!({ "blobs": 0, "missing": [digest.to_string()] })));
    }

    #[test]
    fn a_list_has_a_digest_on_each_line_and_says_which_line_has_none() {
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        let list = |text: &str| parse_list(text, "list").map_err(|error| format!("{error:?}"));
        assert_eq!(list(&format!("{a}\n\n  {b}\r\n")), Ok(vec![a, b]));
        assert_eq!(list(""), Ok(Vec::new()));
        let error = list(&format!("{a}\n\n{}", b.hash)).unwrap_err();
        assert!(error.contains("line 3 of `list`") && error.contains("HASH/SIZE"), "{error}");
    }

    #[test]
    fn of_many_blobs_that_are_not_to_be_had_the_first_are_named() {
        let missing: Vec<Digest> = (0..5_u8).map(|byte| Digest::of(&[byte])).collect();
        let text = format!("{:?}", not_had(&missing, 9));
        assert!(text.contains("5 of 9 blobs are not to be had: ") && text.contains("and 2 more"));
        assert!(text.contains(&missing[2].to_string()) && !text.contains(&missing[3].to_string()));
        let text = format!("{:?}", not_had(&missing[..1], 1));
        assert!(text.contains(&format!("blob {} is not to be had", missing[0])), "{text}");
    }
}
