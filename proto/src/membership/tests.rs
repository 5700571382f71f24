use super::*;
use proptest::prelude::*;

fn presence() -> Presence {
    Presence {
        region: "eu-central".into(),
        mesh_addresses: vec!["127.0.0.1:1".parse().unwrap()],
        data_port: 2,
        started: u64::MAX,
    }
}

fn link() -> LinkReport {
    LinkReport {
        peer: PeerId([6; 32]),
        rtt_us: MAX_RTT_US,
        jitter_us: MAX_RTT_US,
        loss_ppm: MAX_LOSS_PPM,
        goodput: MAX_GOODPUT,
        age_s: u32::MAX,
    }
}

#[test]
fn announcements_read_back_and_the_longest_fit() {
    let held = Held {
        key: ActionKey([1; 32]),
        hlc: Hlc(u64::MAX),
        sum: u64::MAX,
        build_ms: u32::MAX,
        bytes: u64::MAX,
    };
    let longest = Presence {
        region: "r".repeat(64),
        mesh_addresses: vec!["[2001:db8::1]:65535".parse().unwrap(); MAX_ADDRESSES],
        ..presence()
    };
    for message in [
        Announcement::Presence(presence()),
        Announcement::Presence(longest),
        Announcement::Held(vec![held; MAX_HELD]),
        Announcement::Links(vec![link(); MAX_LINKS]),
        Announcement::Gone { peer: PeerId([1; 32]), started: 7 },
    ] {
        assert!(message.encode().len() <= MAX_GOSSIP);
        assert_eq!(Announcement::decode(&message.encode()).unwrap(), message);
    }
}

#[test]
fn requests_and_responses_read_back() {
    let seen = "192.0.2.1:9".parse().unwrap();
    for message in [
        Request::Admit { proof: [4; 32], presence: presence(), seen, roll: u64::MAX, heard: 3 },
        Request::Gossip(vec![1, 2]),
        Request::Exchange(vec![9; MAX_EXCHANGE]),
        Request::Roll { after: Some(PeerId([3; 32])) },
        Request::Part,
    ] {
        assert!(message.encode().len() <= MAX_MESSAGE);
        assert_eq!(Request::decode(&message.encode()).unwrap(), message);
    }
    let members = vec!["[::1]:9".parse().unwrap()];
    for message in [
        Response::Admitted {
            proof: [5; 32],
            presence: presence(),
            seen,
            roll: 1,
            heard: 2,
            members: members.clone(),
        },
        Response::Full { members },
        Response::Refused,
        Response::Taken,
        Response::Exchange(vec![9; MAX_EXCHANGE]),
        Response::Roll(vec![Rolled { age_s: 1, rumour: vec![1; MAX_ROLLED] }; MAX_ROLL]),
    ] {
        assert!(message.encode().len() <= MAX_MESSAGE);
        assert_eq!(Response::decode(&message.encode()).unwrap(), message);
    }
}

#[test]
fn a_region_is_a_plain_word() {
    let mut bad = presence();
    bad.region = "a\n[31m".into();
    assert!(Announcement::decode(&Announcement::Presence(bad).encode()).is_err());
}

/// Encodes links without the care that [`Announcement::encode`] takes.
fn raw_links(links: Vec<LinkV2>) -> Vec<u8> {
    codec::encode(&AnnouncementV2::Links(links))
}

fn raw_link() -> LinkV2 {
    links_to_wire(&[link()]).remove(0)
}

#[test]
fn absurd_measurements_are_refused() {
    assert!(Announcement::decode(&raw_links(vec![raw_link()])).is_ok());
    for absurd in [
        LinkV2 { rtt_us: MAX_RTT_US + 1, ..raw_link() },
        LinkV2 { jitter_us: u32::MAX, ..raw_link() },
        LinkV2 { loss_ppm: MAX_LOSS_PPM + 1, ..raw_link() },
        LinkV2 { goodput: u64::MAX, ..raw_link() },
    ] {
        assert!(Announcement::decode(&raw_links(vec![absurd])).is_err());
    }
    let many = (0..=MAX_LINKS).map(|_| raw_link()).collect();
    assert!(Announcement::decode(&raw_links(many)).is_err());
}

#[test]
fn an_exchange_beyond_its_bound_is_refused() {
    let long = Request::Exchange(vec![0; MAX_EXCHANGE + 1]);
    assert!(Request::decode(&long.encode()).is_err());
    let many = Response::Roll(vec![Rolled { age_s: 0, rumour: Vec::new() }; MAX_ROLL + 1]);
    assert!(Response::decode(&many.encode()).is_err());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (Announcement::decode(&bytes), Request::decode(&bytes), Response::decode(&bytes));
    }

    #[test]
    fn a_changed_byte_is_refused_or_within_bounds(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = Announcement::Links(vec![link(); 3]).encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(Announcement::Links(links)) = Announcement::decode(&bytes) {
            prop_assert!(links.len() <= MAX_LINKS);
            prop_assert!(links.iter().all(|link| link.rtt_us <= MAX_RTT_US && link.goodput <= MAX_GOODPUT));
        }
    }
}
