//! Which of the blobs here are like another. Nothing served depends on it: it only says what to make a patch
//! against.

use super::{inner::Inner, pieces::all_pieces};
use crate::{StoreError, store::SKETCHED};
use netbuild_core::{
    digest::Digest,
    sketch::{Sketch, Sketcher},
};
use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::Arc,
    time::SystemTime,
};

impl Inner {
    /// Notes the sketch of a blob.
    pub(super) fn keep_sketch(&self, blob: &Digest, sketch: &Sketch) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Held as the lists of blobs with a feature are read and written.
        let _catalog = self.catalog();
        // It can be made again; a failure has marked the index already.
        let _ = self.index.put_sketch(blob, sketch, now.as_millis() as u64);
    }

    /// The sketch of a blob that is here.
    pub(super) fn sketch(self: &Arc<Self>, blob: &Digest) -> Result<Option<Sketch>, StoreError> {
        if !SKETCHED.contains(&blob.size) || !self.has(blob) {
            return Ok(None);
        }
        if let Some(entry) = self.index.sketch(&blob.hash).filter(|entry| entry.size == blob.size) {
            return Ok(Some(entry.sketch));
        }
        let Some(reader) = self.open(blob)? else { return Ok(None) };
        match sketch_of(reader) {
            Ok(sketch) => {
                self.keep_sketch(blob, &sketch);
                Ok(Some(sketch))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(StoreError::Content(error)),
        }
    }

    /// The blobs here that are most like the one with this sketch.
    pub(super) fn similar(&self, sketch: &Sketch, limit: usize) -> Vec<(Digest, f64)> {
        let features = sketch.features().into_iter().flatten();
        let named = features.flat_map(|feature| self.index.with_feature(feature).blobs());
        let alike: BTreeMap<Digest, f64> = named
            .filter(|blob| self.has(blob))
            .filter_map(|blob| {
                let entry = self.index.sketch(&blob.hash)?;
                Some((blob, sketch.similarity(&entry.sketch)))
            })
            .collect();
        let mut alike: Vec<(Digest, f64)> = alike.into_iter().collect();
        alike.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        alike.truncate(limit);
        alike
    }
}

fn sketch_of(reader: impl Read) -> io::Result<Sketch> {
    let mut sketcher = Sketcher::new();
    all_pieces(reader, |piece| sketcher.update(piece))?;
    Ok(sketcher.finish())
}
