//! `netbuild put` and `netbuild get`.

use super::{parse_digest, print, print_json};
use crate::{
    args::{GetArgs, PutArgs},
    errors::CliError,
    settings,
};
use netbuild_core::{
    cache::{Cache as _, Content, Source},
    digest::{Digest, DigestBuilder},
};
use netbuild_node::Session;
use serde_json::json;
use std::{
    fs::File,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

pub(crate) fn put(args: &PutArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let digest = digest_of(&args.file).map_err(|error| CliError::io("read", &args.file, &error))?;
    let session = Session::new(&settings.data_dir, &settings.region, &settings.trust)?;
    session.put_blob(&digest, Content::File(&args.file))?;
    session.flush()?;
    if args.json {
        print_json(&json!({ "digest": digest.to_string(), "bytes": digest.size }));
    } else {
        print(&format!("{digest}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut builder = DigestBuilder::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(builder.finish()),
            count => builder.update(&buffer[..count]),
        }
    }
}

pub(crate) fn get(args: &GetArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let digest = parse_digest(&args.digest)?;
    let session = Session::new(&settings.data_dir, &settings.region, &settings.trust)?;
    let started = Instant::now();
    let missing = || {
        CliError::failed(format!("blob {digest} is not to be had"))
            .hint("neither this data directory nor a member that can be reached has it")
    };
    let open = || -> Result<_, CliError> {
        let fetched = session.fetch(&digest)?.ok_or_else(missing)?;
        Ok((fetched, session.open(&digest)?.ok_or_else(missing)?))
    };
    let (mut fetched, mut content) = open()?;
    let Some(output) = &args.output else {
        let mut stdout = io::stdout().lock();
        let copied = io::copy(&mut content, &mut stdout).and_then(|_| stdout.flush());
        return match copied {
            // A reader that has gone away has read enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(not_written(&digest, Path::new("standard output"), &error))
            }
            _ => Ok(ExitCode::SUCCESS),
        };
    };
    let mut written = write(&mut *content, output);
    if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
        && !is_stream(output)
    {
        // The copy on this disk was damaged and is put aside by now; a member may have a whole one.
        (fetched, content) = open()?;
        written = write(&mut *content, output);
    }
    written.map_err(|error| not_written(&digest, output, &error))?;
    if args.json {
        let (source, region) = match &fetched.source {
            Source::Disk => ("disk", None),
            Source::Peer { region, .. } => ("peer", Some(region)),
        };
        print_json(&json!({
            "digest": digest.to_string(),
            "bytes_logical": digest.size,
            "bytes_on_wire": fetched.bytes,
            "source": source,
            "region": region,
            "seconds": (started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        }));
    }
    Ok(ExitCode::SUCCESS)
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
    if is_stream(path) {
        return io::copy(content, &mut File::create(path)?).map(drop);
    }
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
