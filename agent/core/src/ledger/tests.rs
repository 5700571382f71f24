use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const A: PeerId = PeerId([1; 32]);
const B: PeerId = PeerId([2; 32]);

fn item(key: u8, hlc: u64) -> Item {
    Item { key: ActionKey([key; 32]), hlc: Hlc(hlc), sum: hlc ^ 0xff }
}

fn free(item: Item) -> (Item, Cost) {
    (item, Cost::default())
}

#[test]
fn holders_come_and_go() {
    let (x, y) = (item(7, 1), item(8, 1));
    let mut ledger = Ledger::default();
    assert_eq!(ledger.handle_announced(A, [free(x), free(y)]), [x, y]);
    ledger.handle_announced(B, [free(x)]);
    assert_eq!(ledger.holders(&x.key), [A, B]);
    assert_eq!((ledger.count(&A), ledger.count(&B), ledger.len()), (2, 1, 2));
    ledger.handle_missing(&A, &x.key);
    ledger.handle_missing(&A, &x.key);
    assert_eq!((ledger.holders(&x.key), ledger.count(&A)), (vec![B], 1));
    ledger.forget(&B);
    assert_eq!(ledger.holders(&x.key), []);
    assert_eq!((ledger.holders(&y.key), ledger.len()), (vec![A], 1));
    // The slot that became free is a clean one.
    ledger.handle_announced(PeerId([3; 32]), []);
    assert_eq!((ledger.holders(&y.key), ledger.count(&PeerId([3; 32]))), (vec![A], 0));
}

#[test]
fn what_is_not_had_in_this_version_is_to_be_pulled() {
    let mut ledger = Ledger::default();
    ledger.handle_have(item(7, 5), Cost::default());
    for hlc in [4, 6] {
        assert_eq!(ledger.handle_announced(A, [free(item(7, hlc))]), [item(7, hlc)]);
    }
    assert_eq!(ledger.handle_announced(A, [free(item(7, 5))]), []);
    assert_eq!(ledger.have(&item(7, 0).key), Some(item(7, 5)));
    assert_eq!(ledger.count(&A), 1);
    // Heard of is not had.
    assert_eq!(ledger.handle_announced(A, [free(item(8, 1))]), [item(8, 1)]);
    assert_eq!(ledger.handle_announced(B, [free(item(8, 1))]), [item(8, 1)]);
    assert_eq!((ledger.have(&item(8, 1).key), ledger.have_len(), ledger.len()), (None, 1, 2));
}

#[test]
fn a_lost_record_is_still_held_by_others() {
    let mut ledger = Ledger::default();
    let cost = Cost { build_ms: 9, bytes: 1025 };
    ledger.handle_have(item(7, 5), cost);
    assert_eq!(ledger.cost(&item(7, 5).key), Some(Cost { build_ms: 9, bytes: 2048 }));
    ledger.handle_announced(A, [free(item(7, 5))]);
    ledger.handle_lost(&item(7, 5).key);
    ledger.handle_lost(&item(7, 5).key);
    assert_eq!((ledger.have_len(), ledger.holders(&item(7, 5).key)), (0, vec![A]));
    ledger.handle_missing(&A, &item(7, 5).key);
    assert!(ledger.is_empty());
    ledger.handle_have(item(7, 6), cost);
    ledger.handle_lost(&item(7, 5).key);
    assert!(ledger.is_empty());
}

#[test]
fn of_peers_beyond_the_slots_the_last_to_announce_is_remembered() {
    let mut ledger = Ledger::default();
    let peer = |n: usize| PeerId([n as u8; 32]);
    for n in 0..MAX_HOLDERS + 2 {
        assert_eq!(ledger.handle_announced(peer(n), [free(item(7, 1))]), [item(7, 1)]);
    }
    let (late, last) = (peer(MAX_HOLDERS), peer(MAX_HOLDERS + 1));
    let holders = ledger.holders(&item(7, 1).key);
    assert_eq!((holders.len(), holders.last()), (MAX_HOLDERS + 1, Some(&last)));
    assert_eq!(ledger.handle_announced(late, [free(item(8, 1))]), [item(8, 1)]);
    assert_eq!(ledger.holders(&item(8, 1).key), [late]);
    assert_eq!((ledger.count(&late), ledger.len()), (0, 1));
    ledger.handle_missing(&last, &item(7, 1).key);
    assert_eq!(ledger.holders(&item(7, 1).key).len(), MAX_HOLDERS);
    // One leaves and makes room.
    ledger.forget(&peer(0));
    ledger.handle_announced(late, [free(item(8, 1))]);
    assert_eq!(ledger.holders(&item(8, 1).key), [late]);
    assert_eq!(ledger.count(&late), 1);
    ledger.handle_announced(last, [free(item(9, 1))]);
    ledger.forget(&last);
    assert_eq!(ledger.holders(&item(9, 1).key), []);
}

#[test]
fn a_million_records_stay_within_their_memory() {
    let mut ledger = Ledger::default();
    let key = |n: u64| ActionKey(*blake3::hash(&n.to_le_bytes()).as_bytes());
    for n in 0..1_000_000 {
        let item = Item { key: key(n), hlc: Hlc(n), sum: n };
        ledger.handle_have(item, Cost::default());
    }
    ledger.handle_announced(A, (0..1000).map(|n| free(Item { key: key(n), hlc: Hlc(n), sum: n })));
    let entries: usize = ledger.buckets.iter().map(Bucket::allocated).sum();
    // Each allocation has a header of the allocator.
    let bytes = entries + BUCKETS * (size_of::<Bucket>() + 16);
    assert!(bytes <= 90 << 20, "{bytes} bytes");
    assert_eq!((ledger.len(), ledger.have_len(), ledger.count(&A)), (1_000_000, 1_000_000, 1000));
}

#[derive(Clone, Debug)]
enum Event {
    Have(u8, u64),
    Lost(u8),
    Announced(u8, u8, u64),
    Missing(u8, u8),
    Forget(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..6u8, 0..4u64).prop_map(|(key, hlc)| Event::Have(key, hlc)),
        (0..6u8).prop_map(Event::Lost),
        (0..3u8, 0..6u8, 0..4u64).prop_map(|(peer, key, hlc)| Event::Announced(peer, key, hlc)),
        (0..3u8, 0..6u8).prop_map(|(peer, key)| Event::Missing(peer, key)),
        (0..3u8).prop_map(Event::Forget),
    ]
}

proptest! {
    #[test]
    fn it_says_what_naive_maps_say(events in prop::collection::vec(event(), 0..60)) {
        let mut ledger = Ledger::default();
        let (mut have, mut held) = (BTreeMap::new(), BTreeSet::new());
        for event in events {
            match event {
                Event::Have(key, hlc) => {
                    ledger.handle_have(item(key, hlc), Cost::default());
                    have.insert(key, hlc);
                }
                Event::Lost(key) => {
                    ledger.handle_lost(&item(key, 0).key);
                    have.remove(&key);
                }
                Event::Announced(peer, key, hlc) => {
                    let wanted = ledger.handle_announced(PeerId([peer; 32]), [free(item(key, hlc))]);
                    prop_assert_eq!(wanted.is_empty(), have.get(&key) == Some(&hlc));
                    held.insert((peer, key));
                }
                Event::Missing(peer, key) => {
                    ledger.handle_missing(&PeerId([peer; 32]), &item(key, 0).key);
                    held.remove(&(peer, key));
                }
                Event::Forget(peer) => {
                    ledger.forget(&PeerId([peer; 32]));
                    held.retain(|(id, _)| *id != peer);
                }
            }
        }
        let ours: Vec<Item> = have.iter().map(|(key, hlc)| item(*key, *hlc)).collect();
        prop_assert_eq!(ledger.have_after(None, usize::MAX), ours.clone());
        if let Some(first) = ours.first() {
            prop_assert_eq!(ledger.have_after(Some(&first.key), 2), ours.iter().skip(1).take(2).copied().collect::<Vec<_>>());
        }
        for peer in 0..3u8 {
            prop_assert_eq!(ledger.count(&PeerId([peer; 32])), held.iter().filter(|(id, _)| *id == peer).count());
        }
        let known: BTreeSet<u8> = have.keys().copied().chain(held.iter().map(|(_, key)| *key)).collect();
        prop_assert_eq!((ledger.len(), ledger.have_len()), (known.len(), have.len()));
        for key in 0..6u8 {
            let holders: BTreeSet<u8> = ledger.holders(&item(key, 0).key).iter().map(|peer| peer.0[0]).collect();
            let expected = held.iter().filter(|(_, held)| *held == key).map(|(peer, _)| *peer).collect();
            prop_assert_eq!(holders, expected);
        }
        // Running sums are those of what is there.
        for bucket in &ledger.buckets {
            let mut sum = Summary::default();
            bucket.had().for_each(|item| sum.add(Summary::of(&item)));
            prop_assert_eq!(bucket.summary(), sum);
        }
    }
}
