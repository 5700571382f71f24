//! What a wide-area link does to packets, without sockets and clocks: a table of named profiles,
//! the shaper that decides when a packet arrives, and the layout of sites and the links between
//! them.
//!
//! A profile belongs to a *link*, that is a pair of sites, and holds for both of its directions.
//! Each direction has a [`Shaper`] of its own, as the two do not share their rate.

mod layout;
mod profile;
mod shaper;
mod walk;

pub use layout::{
    Layout, LayoutError, Link, LinkSpec, MAX_SITE_NAME, MAX_SITES, Prefix, Site, SiteSpec, Target,
    UnknownTarget,
};
pub use profile::{CUT, PROFILES, Profile, Shape, UnknownProfile, Variation, find};
pub use shaper::{Counters, DropReason, MAX_PACKETS, Shaper, Verdict};
