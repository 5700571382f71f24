//! Answers to records, manifests and parts, read from the disk a batch at a time.

use crate::{Provide, frame::put_frame};
use bytes::Bytes;
use netbuild_proto::{
    data::{Request, encode_manifest},
    parts,
    record::MAX_RECORD,
};

/// Payload bytes after which a batch is sent: one manifest of a very large blob, or many things.
const BATCH: usize = 512 * 1024;

/// Frames ready to be sent.
pub(crate) struct Batch {
    pub(crate) parts: Vec<Bytes>,
    pub(crate) payload: u64,
    /// How many of the request's things are answered with this batch.
    pub(crate) answered: usize,
}

impl Batch {
    pub(crate) fn empty() -> Self {
        Self { parts: Vec::new(), payload: 0, answered: 0 }
    }

    /// Reads what a request asks for, from its thing number `from` on. Blocks.
    pub(crate) fn collect(provide: &dyn Provide, request: &Request, from: usize) -> Self {
        let mut batch = Self::empty();
        for index in from..request.items() {
            let content = content(provide, request, index);
            batch.payload += content.len() as u64;
            put_frame(&mut batch.parts, content.into());
            batch.answered += 1;
            if batch.payload >= BATCH as u64 {
                break;
            }
        }
        batch
    }
}

/// The content of the frame that answers one thing of the request; empty when it is not here.
fn content(provide: &dyn Provide, request: &Request, index: usize) -> Vec<u8> {
    let content = match request {
        Request::Records(keys) => {
            provide.record(&keys[index]).filter(|record| record.len() <= MAX_RECORD)
        }
        Request::Manifests(blobs) => {
            let blob = &blobs[index];
            let encode = |manifest| encode_manifest(&manifest, provide.sketch(blob).as_deref());
            provide.manifest(blob).map(encode)
        }
        Request::Parts(blobs) => Some(parts::encode(&provide.parts(&blobs[index]))),
        // These are not answered thing by thing.
        Request::Chunks { .. }
        | Request::Delta { .. }
        | Request::Has(_)
        | Request::Bring(_)
        | Request::Doubt(_)
        | Request::Probe { .. } => None,
    };
    content.unwrap_or_default()
}
