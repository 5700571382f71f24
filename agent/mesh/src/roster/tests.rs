use super::*;
use proptest::prelude::*;

const INTERVAL: Duration = Duration::from_secs(30);

fn peer(n: usize) -> PeerId {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    PeerId(id)
}

fn presence(started: u64) -> Presence {
    Presence { region: String::new(), mesh_addresses: Vec::new(), data_port: 1, started }
}

fn signed(sequence: u64) -> Signed {
    Signed { sequence, body: sequence.to_be_bytes().to_vec().into() }
}

#[test]
fn only_a_later_presence_of_the_same_member_counts() {
    let (mut roster, now) = (Roster::default(), Instant::now());
    let mut take = |presence, sequence| {
        roster.handle_presence(peer(1), presence, Vec::new(), signed(sequence), now)
    };
    assert_eq!(take(presence(1), 5), News::Joined);
    assert_eq!(take(presence(1), 5), News::Stale);
    assert_eq!(take(presence(1), 4), News::Stale);
    assert_eq!(take(presence(1), 6), News::Same);
    assert_eq!(take(Presence { data_port: 2, ..presence(1) }, 7), News::Updated);
}

#[test]
fn whoever_is_connected_takes_the_place_of_the_one_heard_of_least_recently() {
    let (mut roster, now) = (Roster::default(), Instant::now());
    for n in 0..MAX_KNOWN {
        let heard = now + Duration::from_millis(u64::from(n != 77));
        roster.handle_presence(peer(n), presence(1), Vec::new(), signed(1), heard);
    }
    let late = roster.handle_presence(peer(9999), presence(1), Vec::new(), signed(1), now);
    assert_eq!(late, News::NoRoom);
    assert_eq!(roster.in_the_way_of(&peer(9999)), Some(peer(77)));
    roster.remove(&peer(77));
    assert_eq!(roster.in_the_way_of(&peer(9999)), None);
    assert_eq!(roster.handle_admitted(peer(9999), presence(1), Vec::new(), now), News::Joined);
    assert_eq!((roster.len(), roster.connected()), (MAX_KNOWN, 1));
}

#[test]
fn silence_counts_only_without_a_connection() {
    let (mut roster, now) = (Roster::default(), Instant::now());
    roster.handle_admitted(peer(1), presence(1), Vec::new(), now);
    roster.handle_presence(peer(2), presence(1), Vec::new(), signed(1), now);
    roster.handle_presence(peer(3), presence(1), Vec::new(), signed(1), now);
    let later = now + INTERVAL * SILENT_INTERVALS;
    assert_eq!(roster.next_silent(INTERVAL, later), None);
    roster.handle_heard(&peer(3), later);
    let later = later + Duration::from_secs(1);
    assert_eq!(roster.next_silent(INTERVAL, later), Some(peer(2)));
    roster.remove(&peer(2));
    roster.handle_parted(&peer(1), later);
    assert_eq!(roster.next_silent(INTERVAL, later), None);
}

#[test]
fn the_roll_is_told_page_by_page_with_ages() {
    let (mut roster, start) = (Roster::default(), Instant::now());
    let count = 2 * MAX_ROLL + 5;
    for n in 0..count {
        roster.handle_presence(peer(n), presence(1), Vec::new(), signed(n as u64), start);
    }
    roster.handle_admitted(peer(9999), presence(1), Vec::new(), start);
    let now = start + Duration::from_secs(9);
    let (mut after, mut told) = (None, Vec::new());
    loop {
        let page = roster.roll(after, now);
        let Some(last) = page.last() else { break };
        let n: [u8; 8] = last.rumour.clone().try_into().unwrap();
        after = Some(peer(usize::from_be_bytes(n)));
        assert!(page.len() <= MAX_ROLL && page.iter().all(|rolled| rolled.age_s == 9));
        told.extend(page);
    }
    assert_eq!(told.len(), count, "the one that signed nothing yet is left out");
}

proptest! {
    /// Counts and digest follow from who is known, in whatever order it came to be.
    #[test]
    fn counts_and_digest_follow_from_who_is_known(
        steps in prop::collection::vec((0u8..4, 0usize..6, 0u64..9), 0..200),
    ) {
        let (mut roster, now) = (Roster::default(), Instant::now());
        for (step, n, sequence) in steps {
            match step {
                0 => { roster.handle_admitted(peer(n), presence(1), Vec::new(), now); }
                1 => {
                    roster.handle_presence(peer(n), presence(1), Vec::new(), signed(sequence), now);
                }
                2 => roster.handle_parted(&peer(n), now),
                _ => { roster.remove(&peer(n)); }
            }
            let connected = roster.iter().filter(|(_, known)| known.connected).count();
            prop_assert_eq!(roster.connected(), connected);
            let digest = roster.iter().fold(0, |digest, (peer, _)| digest ^ short(peer));
            prop_assert_eq!(roster.digest_with(&peer(99)), digest ^ short(&peer(99)));
        }
    }
}
