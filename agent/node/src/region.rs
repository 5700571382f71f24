//! The region of this agent: as it was said, as the environment hints, or as it is measured.

use crate::{config::RegionSettings, disk_cache::DiskCache, view::View};
use netbuild_core::region::{Detection, Evidence};
use netbuild_mesh::Mesh;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long links are measured before a region is chosen by them: the agents of all regions shall
/// have had time to be met.
const SETTLE: Duration = Duration::from_secs(2);

/// Looks for the region of this agent until there is one.
#[derive(Clone, Debug)]
pub(crate) struct RegionFinder {
    settings: RegionSettings,
    disk: Arc<DiskCache>,
    found: Arc<Mutex<Found>>,
}

#[derive(Debug)]
struct Found {
    detection: Detection,
    first_measured: Option<Instant>,
}

impl RegionFinder {
    /// Starts with what is said. A hint of the environment counts until links say otherwise.
    pub(crate) fn new(settings: RegionSettings, disk: Arc<DiskCache>) -> Self {
        let detection = match (&settings.name, &settings.hint) {
            (name, _) if !name.is_empty() => Detection::Region {
                region: name.clone(),
                evidence: Evidence::Said(settings.origin.clone()),
            },
            (_, Some((variable, region))) => Detection::Region {
                region: region.clone(),
                evidence: Evidence::Hint(variable.clone()),
            },
            _ => Detection::Unknown,
        };
        let found = Arc::new(Mutex::new(Found { detection, first_measured: None }));
        Self { settings, disk, found }
    }

    /// What is known of the region.
    pub(crate) fn detection(&self) -> Detection {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).detection.clone()
    }

    /// Looks at the links, and joins a region that they make certain.
    pub(crate) fn look(&self, view: &View, mesh: &Mesh) {
        if !self.settings.name.is_empty() {
            return;
        }
        let hint = self.settings.hint.as_ref();
        let hint = hint.map(|(variable, region)| (variable.as_str(), region.as_str()));
        let detection = view.detect(hint);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let by_links = match (&found.detection, &detection) {
            // What links said once stays: a region that changes with the weather is none.
            (Detection::Region { evidence: Evidence::Measured(_), .. }, _)
            | (_, Detection::Unknown) => return,
            (Detection::Region { region, .. }, Detection::Region { region: other, .. })
                if region == other =>
            {
                return;
            }
            (_, other) => other.clone(),
        };
        let since = *found.first_measured.get_or_insert_with(Instant::now);
        if since.elapsed() < SETTLE {
            return;
        }
        if let Some(region) = by_links.region() {
            tracing::info!(region, "joined a region: {by_links}");
            self.disk.set_region(region.to_owned());
            view.peers(|peers, _| peers.set_region(region.to_owned()));
            mesh.set_region(region.to_owned());
        } else if found.detection != by_links && matches!(found.detection, Detection::Unknown) {
            tracing::info!("region: {by_links}; name one with --region");
        }
        found.detection = by_links;
    }
}
