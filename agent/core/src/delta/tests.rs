use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::convert::Infallible;

/// Bytes that look random and are the same everywhere (SplitMix64, Steele et al. 2014).
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Something like machine code: noise with an address of four bytes every twenty.
fn program(len: usize, seed: u64, moved_by: u32) -> Vec<u8> {
    let mut bytes = noise(len, seed);
    for (number, place) in bytes.chunks_exact_mut(20).enumerate() {
        let address = 0x0040_0000 + number as u32 * 57 + moved_by;
        place[8..12].copy_from_slice(&address.to_le_bytes());
    }
    bytes
}

fn make(base: &[u8], patch: &Patch, len: usize) -> Result<Vec<u8>, DeltaError<Infallible>> {
    let read = |at: u64, into: &mut [u8]| {
        into.copy_from_slice(&base[at as usize..][..into.len()]);
        Ok(())
    };
    apply(base.len() as u64, read, patch, len)
}

fn patch(base: &[u8], target: &[u8]) -> Patch {
    diff(&Index::new(base), base, target, 0)
}

fn size(patch: &Patch) -> usize {
    patch.control.len() + patch.gaps.len() + patch.adjustments.len() + patch.literals.len()
}

#[derive(Clone, Debug)]
enum Edit {
    Replace(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Move(usize, usize, usize),
    Shift(usize, usize, u8),
}

fn edited(base: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for edit in edits {
        let len = bytes.len();
        let within = |at: usize| at % (len + 1);
        match edit {
            Edit::Replace(at, with) => {
                let at = within(*at);
                let end = len.min(at + with.len());
                bytes[at..end].copy_from_slice(&with[..end - at]);
            }
            Edit::Insert(at, what) => {
                bytes.splice(within(*at)..within(*at), what.iter().copied());
            }
            Edit::Remove(at, count) => {
                let at = within(*at);
                bytes.drain(at..len.min(at + count));
            }
            Edit::Move(at, count, to) => {
                let at = within(*at);
                let moved: Vec<u8> = bytes.drain(at..len.min(at + count)).collect();
                let to = to % (bytes.len() + 1);
                bytes.splice(to..to, moved);
            }
            Edit::Shift(at, step, by) => {
                let at = within(*at);
                bytes[at..].iter_mut().step_by(step + 1).for_each(|b| *b = b.wrapping_add(*by));
            }
        }
    }
    bytes
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<usize>();
    prop_oneof![
        (at, vec(any::<u8>(), 0..200)).prop_map(|(at, with)| Edit::Replace(at, with)),
        (at, vec(any::<u8>(), 0..2000)).prop_map(|(at, what)| Edit::Insert(at, what)),
        (at, 0usize..3000).prop_map(|(at, count)| Edit::Remove(at, count)),
        (at, 0usize..9000, at).prop_map(|(at, count, to)| Edit::Move(at, count, to)),
        (at, 0usize..40, any::<u8>()).prop_map(|(at, step, by)| Edit::Shift(at, step, by)),
    ]
}

/// Noise, a program, or bytes of few values, which have matches everywhere.
fn base() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0usize..60_000, any::<u64>()).prop_map(|(len, seed)| noise(len, seed)),
        (0usize..60_000, any::<u64>()).prop_map(|(len, seed)| program(len, seed, 0)),
        vec(0u8..2, 0..3000),
        (0usize..60_000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_patch_makes_the_target_whatever_was_edited(
        base in base(), edits in vec(edit(), 0..8), near in 0usize..80_000
    ) {
        let target = edited(&base, &edits);
        let patch = diff(&Index::new(&base), &base, &target, near);
        prop_assert_eq!(make(&base, &patch, target.len()), Ok(target));
    }

    #[test]
    fn a_patch_between_unrelated_files_makes_the_target(base in base(), target in base()) {
        prop_assert_eq!(make(&base, &patch(&base, &target), target.len()), Ok(target));
    }

    #[test]
    fn a_damaged_patch_makes_the_expected_length_or_an_error(
        base in base(), edits in vec(edit(), 1..5),
        damage in vec((0usize..4, any::<usize>(), any::<u8>(), 0u8..3), 1..6)
    ) {
        let target = edited(&base, &edits);
        let mut patch = patch(&base, &target);
        for (stream, at, byte, kind) in damage {
            let stream = match stream {
                0 => &mut patch.control,
                1 => &mut patch.gaps,
                2 => &mut patch.adjustments,
                _ => &mut patch.literals,
            };
            let at = at % (stream.len() + 1);
            match kind {
                0 => stream.insert(at, byte),
                1 => stream.truncate(at),
                _ => if let Some(old) = stream.get_mut(at) { *old = byte },
            }
        }
        if let Ok(made) = make(&base, &patch, target.len()) {
            prop_assert_eq!(made.len(), target.len());
        }
    }

    #[test]
    fn random_streams_never_read_outside_the_base(
        control in vec(any::<u8>(), 0..60), gaps in vec(any::<u8>(), 0..20),
        adjustments in vec(any::<u8>(), 0..20), literals in vec(any::<u8>(), 0..20),
        expected in 0usize..300
    ) {
        let base = noise(100, 1);
        let patch = Patch { control, gaps, adjustments, literals };
        if let Ok(made) = make(&base, &patch, expected) {
            prop_assert_eq!(made.len(), expected);
        }
    }

    #[test]
    fn the_chosen_method_is_never_slower_than_another(
        costs in vec((0.0f64..10.0, 1.0f64..1e9, 1.0f64..1e9, 0.0f64..2.0), 1..4),
        len in 0u64..1 << 40, goodput in 1.0f64..1e10
    ) {
        let methods: Vec<_> = [Method::Whole, Method::Prefix, Method::Patch]
            .into_iter()
            .zip(costs)
            .map(|(m, (setup, encode, decode, share))| (m, Cost { setup, encode, decode, share }))
            .collect();
        let chosen = choose(&methods, len, goodput);
        let seconds = |m| {
            methods.iter().find(|(known, _)| *known == m).map(|(_, c)| c.seconds(len, goodput))
        };
        for (method, _) in &methods {
            prop_assert!(seconds(chosen) <= seconds(*method));
        }
    }
}

#[test]
fn what_did_not_change_costs_a_few_bytes() {
    let base = program(200_000, 1, 0);
    assert!(size(&patch(&base, &base)) < 16);
    assert_eq!(patch(&base, &[]), Patch::default());
    let empty = patch(&[], &base);
    assert_eq!(empty.literals, base);
    assert_eq!(make(&[], &empty, base.len()), Ok(base));
}

#[test]
fn moved_addresses_cost_two_bytes_each_and_all_say_the_same() {
    let base = program(200_000, 1, 0);
    let target = program(200_000, 1, 0x30);
    let patch = patch(&base, &target);
    assert!(patch.literals.len() < 64, "{} literals", patch.literals.len());
    assert!(patch.adjustments.len() + patch.gaps.len() <= 2 * target.len() / 20 + 16);
    let guessed = patch.adjustments.iter().filter(|off| **off == 0).count();
    assert!(guessed * 100 > patch.adjustments.len() * 99, "{guessed} are guessed");
}

#[test]
fn references_that_move_with_what_they_point_at_are_guessed() {
    // As offsets of strings in debug information: in no order, and each of 32 parts of the strings has
    // moved by a distance of its own.
    let references = |moved: bool| -> Vec<u8> {
        let places = noise(4 * 100_000, 5);
        let places = places.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
        let mut bytes = noise(12 * 100_000, 6);
        for (entry, place) in bytes.chunks_exact_mut(12).zip(places) {
            let place = place % (48 << 20);
            let by = if moved { 7 + (place >> 20) / 3 * 2 * 9 } else { 0 };
            entry[4..8].copy_from_slice(&(place + by).to_le_bytes());
        }
        bytes
    };
    let (base, target) = (references(false), references(true));
    let patch = patch(&base, &target);
    assert!(patch.literals.len() < 100, "{} literals", patch.literals.len());
    let guessed = patch.adjustments.iter().filter(|off| **off == 0).count();
    assert!(guessed * 10 > patch.adjustments.len() * 9, "{guessed} of {}", patch.adjustments.len());
    assert_eq!(make(&base, &patch, target.len()), Ok(target));
}

#[test]
fn functions_in_another_order_are_found() {
    let base = program(400_000, 1, 0);
    let parts: Vec<&[u8]> = base.chunks(5000).collect();
    let target: Vec<u8> = parts.iter().rev().flat_map(|part| part.iter().copied()).collect();
    let patch = patch(&base, &target);
    assert!(size(&patch) < target.len() / 100, "{} bytes", size(&patch));
}

#[test]
fn a_large_base_has_a_bounded_index_that_still_finds() {
    let base = noise(24 << 20, 1);
    let index = Index::new(&base);
    assert!(index.memory() <= MAX_TABLE);
    let segment = &base[9_000_001..9_500_001];
    assert!(size(&diff(&index, &base, segment, 0)) < 200);
}

#[test]
fn a_hostile_patch_is_refused_by_name() {
    let base = noise(100, 1);
    let control = |numbers: &[u64]| {
        let mut control = Vec::new();
        numbers.iter().for_each(|number| words::put(&mut control, *number));
        Patch { control, ..Patch::default() }
    };
    let error = |patch: &Patch, expected| make(&base, patch, expected).unwrap_err();
    assert!(matches!(error(&control(&[0, 101, 0]), 101), DeltaError::OutsideBase { .. }));
    assert!(matches!(error(&control(&[1, 1, 0]), 1), DeltaError::OutsideBase { at: -1, .. }));
    assert!(matches!(error(&control(&[u64::MAX - 1, 1, 0]), 1), DeltaError::OutsideBase { .. }));
    assert!(matches!(error(&control(&[0, u64::MAX, 9]), 9), DeltaError::Length { .. }));
    assert!(matches!(error(&control(&[0, 3, 0]), 9), DeltaError::Length { made: 3, .. }));
    assert_eq!(error(&control(&[0, 0, 9]), 9), DeltaError::Malformed("literals"));
    assert_eq!(error(&control(&[0, 0, 0]), 9), DeltaError::Malformed("instructions"));
    assert_eq!(error(&control(&[0, 9]), 9), DeltaError::Malformed("instructions"));
    let large = Patch { control: vec![0; 1000], ..Patch::default() };
    assert_eq!(error(&large, 9), DeltaError::TooLarge(9));
}

#[test]
fn a_slow_link_pays_for_cpu_and_a_fast_one_does_not() {
    let methods = [
        (Method::Whole, Cost { setup: 0.0, encode: 2e9, decode: 2e9, share: 1.0 }),
        (Method::Prefix, Cost { setup: 0.0, encode: 300e6, decode: 800e6, share: 0.1 }),
        (Method::Patch, Cost { setup: 0.3, encode: 60e6, decode: 500e6, share: 0.02 }),
    ];
    let len = 74 << 20;
    assert_eq!(choose(&methods, len, 3e6), Method::Patch);
    assert_eq!(choose(&methods, len, 100e6), Method::Prefix);
    assert_eq!(choose(&methods, len, 1.2e9), Method::Whole);
    assert_eq!(choose(&methods, len, f64::NAN), Method::Whole);
    assert_eq!(choose(&[], len, 1e6), Method::Whole);
}
