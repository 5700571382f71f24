//! Peers without the key, in every order of tricks.

use super::*;

/// One thing that a stranger may do.
#[derive(Clone, Debug)]
enum Trick {
    Connect(bool),
    Disconnect,
    Admit([u8; 32]),
    Ask(Request),
    Answer(u64, Response),
    Wait(u64),
}

fn trick() -> impl Strategy<Value = Trick> {
    let response = prop_oneof![
        Just(Response::Refused),
        Just(Response::Taken),
        Just(Response::Full { members: vec![address(3)] }),
        Just(Response::Roll(Vec::new())),
        any::<[u8; 32]>().prop_map(|proof| Response::Admitted {
            proof,
            presence: presence(9),
            seen: address(4),
            roll: 7,
            heard: 9,
            members: vec![address(3)],
        }),
    ];
    let bytes = || prop::collection::vec(any::<u8>(), 0..80);
    let request = prop_oneof![
        Just(Request::Part),
        Just(Request::Roll { after: None }),
        bytes().prop_map(Request::Exchange),
        bytes().prop_map(Request::Gossip),
        bytes().prop_map(|body| carried(vec![body.into()])),
    ];
    prop_oneof![
        any::<bool>().prop_map(Trick::Connect),
        Just(Trick::Disconnect),
        any::<[u8; 32]>().prop_map(Trick::Admit),
        request.prop_map(Trick::Ask),
        (0u64..5, response).prop_map(|(number, response)| Trick::Answer(number, response)),
        (0u64..8000).prop_map(Trick::Wait),
    ]
}

proptest! {
    /// Whatever peers without the key do, in any order: no event, no answer, no proof, no member; and
    /// the brain never asks to be polled at once for ever.
    #[test]
    fn a_stranger_gets_nothing(tricks in prop::collection::vec((2u8..5, trick()), 0..80)) {
        let mut now = Instant::now();
        let mut brain = brain(now);
        for (token, (n, trick)) in (0..).zip(tricks) {
            let id = peer(n);
            match trick {
                Trick::Connect(dialled) => {
                    let target = dialled.then(|| Target::Address(address(2)));
                    brain.handle_connected(id, address(2), dialled, target, now);
                }
                Trick::Disconnect => brain.handle_disconnected(&id, now),
                Trick::Admit(proof) => {
                    let (presence, seen) = (presence(9), address(4));
                    let request = Request::Admit { proof, presence, seen, roll: 1, heard: 2 };
                    brain.handle_request(id, Token(token), request, now);
                }
                Trick::Ask(request) => brain.handle_request(id, Token(token), request, now),
                Trick::Answer(number, response) => brain.handle_response(id, number, response, now),
                Trick::Wait(millis) => now += Duration::from_millis(millis),
            }
            for action in actions(&mut brain, now) {
                let bad = match &action {
                    Action::Answer { response, .. } => *response != Response::Refused,
                    Action::Ask { request, .. } => !matches!(request, Request::Admit { .. }),
                    Action::Favour { .. } | Action::Route { .. } | Action::Walk => true,
                    Action::Exchange { .. } => true,
                    Action::Dial(_) | Action::Ignore { .. } | Action::Close { .. } => false,
                };
                prop_assert!(!bad, "{:?}", action);
                if let Action::Dial(dial) = action {
                    brain.handle_dial_failed(&dial.target, now);
                }
            }
            prop_assert!(brain.next_timeout(now) > now);
            prop_assert!(brain.outbox().is_empty());
            prop_assert_eq!(brain.counters().members, 0);
        }
    }
}
