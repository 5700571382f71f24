//! `netbuild put`.

use super::{finish, print, print_json, session};
use crate::{args::PutArgs, errors::CliError, settings};
use netbuild_core::{
    cache::{Cache as _, Content},
    digest::{Digest, DigestBuilder},
};
use serde_json::json;
use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    process::ExitCode,
};

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

pub(crate) fn put(args: &PutArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let digest = digest_of(&args.file).map_err(|error| CliError::io("read", &args.file, &error))?;
    let session = session(&settings)?;
    session.put_blob(&digest, Content::File(&args.file))?;
    session.share(&digest)?;
    session.flush()?;
    if args.json {
        print_json(&json!({ "digest": digest.to_string(), "bytes": digest.size }));
    } else {
        print(&format!("{digest}\n"));
    }
    finish(&session, &|| true);
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
