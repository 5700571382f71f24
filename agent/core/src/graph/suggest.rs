//! "did you mean": the nearest of the names that exist.

/// Longest text that is compared with names; nobody mistypes more.
const MAX_LEN: usize = 200;

/// The candidate that differs from `wrong` by the fewest typing mistakes, if by few enough to be
/// the likely intent: one for every three characters. Ties go by the alphabet, since candidates
/// may come in any order.
pub(super) fn nearest<'c>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let length = wrong.chars().count();
    if length > MAX_LEN {
        return None;
    }
    let most = length.div_ceil(3).max(1);
    let lower = wrong.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(wrong.len()) <= 4 * most)
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|found| *found)
        .map(|(_, candidate)| candidate)
}

/// The hint for a wrong name.
pub(crate) fn did_you_mean<'c>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<String> {
    nearest(wrong, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_likely_intent_is_suggested() {
        let names = ["build-api", "build-worker", "test"];
        assert_eq!(nearest("biuld-api", names), Some("build-api"));
        assert_eq!(nearest("TEST", names), Some("test"));
        assert_eq!(nearest("tset", names), Some("test"));
        assert_eq!(nearest("deploy", names), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), names), None);
    }
}
