use super::*;
use crate::{
    digest::Digest,
    key::ActionKey,
    record::{Execution, Output, Sandbox},
};
use proptest::prelude::*;
use std::collections::BTreeSet;

const KEY: ActionKey = ActionKey([7; 32]);

fn version(writer: u8, hlc: u64, result: u8) -> Version {
    Version {
        writer: PeerId([writer; 32]),
        hlc: Hlc(hlc),
        hash: Hash::of(&[&[writer, result][..], &hlc.to_le_bytes()].concat()),
        result: Hash([result; 32]),
        bound_to: None,
    }
}

fn trust() -> Trust {
    Trust::new(
        Level::Normal,
        [(PeerId([1; 32]), Level::Trusted), (PeerId([9; 32]), Level::Refused)].into(),
    )
}

/// What an agent keeps and knows after records came in this order.
#[derive(PartialEq, Eq, Debug)]
struct Agent {
    kept: Option<Version>,
    lost: BTreeSet<(Hash, Hash)>,
}

fn after(arrivals: &[Version], trust: &Trust) -> Agent {
    let (mut kept, mut evidence) = (None, Evidence::default());
    let lose = |evidence: &mut Evidence<()>, lost: &Version, won: &Version| {
        let variant = Variant { rank: lost.rank(trust), result: lost.result, place: () };
        assert_eq!(evidence.add(KEY, &won.result, variant), None);
    };
    for new in arrivals {
        let Some(old) = kept else {
            kept = (trust.level(&new.writer) != Level::Refused).then_some(*new);
            continue;
        };
        match merge(&old, new, trust) {
            Outcome::Stays { conflict: true } => lose(&mut evidence, new, &old),
            Outcome::Replaces { conflict } => {
                if conflict {
                    lose(&mut evidence, &old, new);
                } else {
                    evidence.handle_kept(&KEY, &new.result);
                }
                kept = Some(*new);
            }
            Outcome::Stays { conflict: false } | Outcome::Same | Outcome::Refused => {}
        }
    }
    let lost = evidence.variants(&KEY).iter().map(|v| (v.result, v.rank.hash)).collect();
    Agent { kept, lost }
}

#[test]
fn trust_comes_before_time_and_time_before_the_hash() {
    let trust = trust();
    let (trusted, normal) = (version(1, 5, 1), version(2, 900, 2));
    assert_eq!(merge(&trusted, &normal, &trust), Outcome::Stays { conflict: true });
    assert_eq!(merge(&normal, &trusted, &trust), Outcome::Replaces { conflict: true });
    let newer = version(3, 901, 2);
    assert_eq!(merge(&normal, &newer, &trust), Outcome::Replaces { conflict: false });
    let tie = version(4, 900, 3);
    let replaces = tie.hash > normal.hash;
    assert_eq!(merge(&normal, &tie, &trust) == Outcome::Replaces { conflict: true }, replaces);
    assert_eq!(merge(&normal, &normal, &trust), Outcome::Same);
}

#[test]
fn a_refused_writer_neither_replaces_nor_accuses() {
    let trust = trust();
    let (refused, normal) = (version(9, 900, 1), version(2, 5, 2));
    assert_eq!(merge(&normal, &refused, &trust), Outcome::Refused);
    assert_eq!(merge(&refused, &refused, &trust), Outcome::Refused);
    // Kept from a time when it was not refused.
    assert_eq!(merge(&refused, &normal, &trust), Outcome::Replaces { conflict: false });
}

#[test]
fn results_for_different_workspaces_are_no_conflict() {
    let bound = |workspace, result| Version {
        bound_to: Some(Hash([workspace; 32])),
        ..version(1, u64::from(result), result)
    };
    assert!(!bound(1, 1).conflicts_with(&bound(2, 2)));
    assert!(!bound(1, 1).conflicts_with(&version(1, 2, 2)));
    assert!(bound(1, 1).conflicts_with(&bound(1, 2)));
}

#[test]
fn exit_code_and_outputs_make_a_result_and_nothing_else_does() {
    let digest = Digest::of(b"content");
    let output = |kind| Output { path: b"a".to_vec(), kind };
    let base = Record {
        key: KEY,
        result: ActionResult {
            exit_code: 0,
            outputs: vec![output(OutputKind::File { digest, executable: false })],
            log: Some(digest),
        },
        execution: Execution {
            duration_ms: 1,
            finished_at_ms: 1,
            sandbox_asked: Sandbox::Env,
            sandbox_obtained: Sandbox::Env,
            tools: Vec::new(),
            netbuild_version: String::new(),
            flaky: false,
            drift_checked: true,
            bound_to: None,
            local: false,
        },
        writer: PeerId([1; 32]),
        region: String::new(),
        hlc: Hlc(1),
    };
    let same: [fn(&mut Record); 4] = [
        |r| r.result.log = None,
        |r| r.execution.duration_ms = 9,
        |r| r.writer = PeerId([2; 32]),
        |r| r.hlc = Hlc(9),
    ];
    let of = |record: &Record| result_id(&record.result);
    for change in same {
        let mut changed = base.clone();
        change(&mut changed);
        assert_eq!(of(&changed), of(&base));
    }
    let mut seen = BTreeSet::from([of(&base)]);
    let listing = digest;
    let kinds = [
        OutputKind::File { digest, executable: true },
        OutputKind::File { digest: Digest { size: 8, ..digest }, executable: false },
        OutputKind::Symlink { target: b"content".to_vec() },
        OutputKind::Tree { listing },
        OutputKind::Files { listing },
        OutputKind::Absent,
    ];
    for kind in kinds {
        let mut changed = base.clone();
        changed.result.outputs[0].kind = kind;
        assert!(seen.insert(of(&changed)));
    }
    let mut changed = base.clone();
    changed.result.exit_code = 1;
    assert!(seen.insert(of(&changed)));
    changed.result.outputs[0].path = b"b".to_vec();
    assert!(seen.insert(of(&changed)));
    changed.result.outputs.clear();
    assert!(seen.insert(of(&changed)));
}

#[test]
fn a_clock_that_is_hours_off_orders_records_and_harms_nothing() {
    const HOUR: u64 = 3_600_000;
    let trust = Trust::default();
    let now = 1_795_000_000_000;
    for skew in [now - 9 * HOUR, now + 9 * HOUR] {
        let (right, wrong) = (version(1, now << 16, 1), version(2, skew << 16, 1));
        let kept = after(&[right, wrong], &trust);
        assert_eq!(kept, after(&[wrong, right], &trust));
        assert!(kept.lost.is_empty(), "equal results are no conflict, whatever the clocks say");
        // A rebuild by the agent with the right clock is a new result for the others too.
        let again = Hlc::default().observe(right.hlc, now).tick(now);
        let again = if again > wrong.hlc { again } else { wrong.hlc.tick(now) };
        let rebuilt = Version { hlc: again, ..version(1, 0, 3) };
        assert_eq!(after(&[rebuilt, wrong, right], &trust).kept, Some(rebuilt));
    }
}

#[test]
fn evidence_is_bounded_and_the_quiet_are_forgotten() {
    let key = |n: usize| ActionKey(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let variant = |hlc: u64, result: u64| Variant {
        rank: Rank { level: Level::Normal, hlc: Hlc(hlc), hash: Hash([0; 32]) },
        result: Hash::of(&result.to_le_bytes()),
        place: (),
    };
    let mut evidence = Evidence::default();
    let kept = Hash([9; 32]);
    for n in 0..MAX_CONFLICTS {
        assert_eq!(evidence.add(key(n), &kept, variant(1, 1)), None);
    }
    // The first is heard of again, so the second is the oldest.
    assert_eq!(evidence.add(key(0), &kept, variant(2, 1)), None);
    assert_eq!(evidence.add(key(MAX_CONFLICTS), &kept, variant(1, 1)), Some(key(1)));
    assert_eq!((evidence.len(), evidence.forgotten()), (MAX_CONFLICTS, 1));
    for result in 0..100 {
        evidence.add(key(0), &kept, variant(result, result));
    }
    let kept: Vec<_> = evidence.variants(&key(0)).iter().map(|v| v.rank.hlc.0).collect();
    assert_eq!(kept, [99, 98, 97, 96]);
    assert!(!evidence.admits(&key(0), &variant(95, 95).rank, &variant(95, 95).result));
}

fn versions() -> impl Strategy<Value = Vec<Version>> {
    let one = (prop_oneof![1..4u8, Just(9)], 0..4u64, 0..7u8);
    prop::collection::vec(one.prop_map(|(w, h, r)| version(w, h, r)), 1..12)
}

proptest! {
    #[test]
    fn any_order_and_any_repetition_end_alike(
        arrivals in versions(), order in any::<prop::sample::Index>(), twice in any::<bool>(),
    ) {
        let trust = trust();
        let mut other = arrivals.clone();
        if twice {
            other.extend(arrivals.clone());
        }
        // A shuffle that depends on the seed only.
        let seed = order.index(usize::MAX);
        other.sort_by_key(|v| *blake3::hash(&[v.hash.0.as_slice(), &seed.to_le_bytes()].concat()).as_bytes());
        prop_assert_eq!(after(&arrivals, &trust), after(&other, &trust));
        let mut reversed = arrivals.clone();
        reversed.reverse();
        prop_assert_eq!(after(&arrivals, &trust), after(&reversed, &trust));
    }

    #[test]
    fn of_two_exactly_one_stays(one in versions(), two in versions()) {
        let (one, two, trust) = (one[0], two[0], Trust::default());
        let replaces = |outcome| matches!(outcome, Outcome::Replaces { .. });
        let (forth, back) = (merge(&one, &two, &trust), merge(&two, &one, &trust));
        if one == two {
            prop_assert_eq!((forth, back), (Outcome::Same, Outcome::Same));
        } else {
            prop_assert!(replaces(forth) != replaces(back));
        }
    }
}
