//! Which kind of patch is worth its CPU on a link.

/// How a segment can be sent to a peer that holds a base.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    /// As it is, or by whatever codec the link has.
    Whole,
    /// zstd with the part of the base that lies around the segment as its prefix.
    Prefix,
    /// Copies with mismatches, and zstd over the streams of the [`Patch`](super::Patch).
    Patch,
}

/// What a method costs on this machine for this kind of data, by measurement.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// Seconds before the first byte: reading and indexing the base.
    pub setup: f64,
    /// Bytes of the target that are encoded in a second.
    pub encode: f64,
    /// Bytes of the target that are decoded in a second.
    pub decode: f64,
    /// Bytes on the wire for each byte of the target.
    pub share: f64,
}

impl Cost {
    /// Expected seconds until `len` bytes are at the peer, over a link of `goodput` bytes per
    /// second: the steps of a stream of segments overlap, so the slowest of them counts.
    ///
    /// Figures that are no numbers, or not positive, make a method endlessly slow and not fast.
    pub fn seconds(&self, len: u64, goodput: f64) -> f64 {
        let len = len as f64;
        let at = |bytes: f64, speed: f64| match speed > 0.0 {
            true => bytes / speed,
            false => f64::INFINITY,
        };
        let wire = at(len * self.share.max(0.0), goodput);
        let steps = [at(len, self.encode), at(len, self.decode), wire];
        let slowest = steps.into_iter().fold(0.0, f64::max);
        let seconds = self.setup.max(0.0) + slowest;
        if seconds.is_nan() { f64::INFINITY } else { seconds }
    }
}

/// The method with the fewest expected [seconds](Cost::seconds); of equal ones the first. Whole when
/// there is none.
pub fn choose(methods: &[(Method, Cost)], len: u64, goodput: f64) -> Method {
    let seconds = |(_, cost): &&(Method, Cost)| cost.seconds(len, goodput);
    let best = methods.iter().min_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    best.map_or(Method::Whole, |(method, _)| *method)
}
