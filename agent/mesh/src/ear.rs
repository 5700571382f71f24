//! What others say to the whole mesh: checked, opened and counted once.

use crate::{
    replay::{Age, Replays},
    roster::Signed,
    seal::Seal,
};
use netbuild_core::{gossip::Body, peer::PeerId};
use netbuild_proto::{gossip::Envelope, membership::Announcement, ticket::MeshKey};

/// What is wrong with a rumour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It was not made by the origin that it names, or not by a member, or it says nothing that can be.
    Forged,
    /// It was heard a short while ago, as may happen where two ways meet, or a later one of its kind was.
    Heard,
    /// It is far behind what its origin says now: somebody kept it.
    Old,
}

/// A rumour that is what it seems to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    pub(crate) origin: PeerId,
    pub(crate) signed: Signed,
    pub(crate) announcement: Announcement,
}

/// The ear of this agent.
pub(crate) struct Ear {
    seal: Seal,
    replays: Replays,
}

impl Ear {
    pub(crate) fn new(mesh_key: &MeshKey) -> Self {
        Self { seal: Seal::new(mesh_key), replays: Replays::default() }
    }

    /// The highest number under which a peer is known to have said something.
    pub(crate) fn highest(&self, origin: &PeerId) -> u64 {
        self.replays.highest(origin)
    }

    /// Checks a rumour: read the envelope, open the seal, check the signature, and count it once. The
    /// seal comes before the signature, because it costs a hundredth of it.
    ///
    /// A presence counts as long as there is no later one: those that are told to a new member are older
    /// than much else that their origins said.
    pub(crate) fn hear(&mut self, body: &Body) -> Result<Heard, Fault> {
        let envelope = Envelope::decode(body).map_err(|_| Fault::Forged)?;
        let Envelope { origin, sequence, .. } = envelope;
        let age = self.replays.age(&origin, sequence);
        if age == Age::Seen {
            return Err(Fault::Heard);
        }
        let announcement = self.seal.open(&origin, &envelope.sealed).ok_or(Fault::Forged)?;
        let announcement = Announcement::decode(&announcement).map_err(|_| Fault::Forged)?;
        // Nothing is counted under a name before the signature shows that the name is right.
        if !envelope.is_genuine() {
            return Err(Fault::Forged);
        }
        let counts = match announcement {
            Announcement::Presence(_) => self.replays.is_latest(origin, sequence),
            _ => self.replays.is_new(origin, sequence),
        };
        if counts {
            let signed = Signed { sequence, body: Body::clone(body) };
            return Ok(Heard { origin, signed, announcement });
        }
        Err(match announcement {
            Announcement::Presence(_) => Fault::Heard,
            _ => Fault::Old,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::voice::Voice;
    use netbuild_core::peer::Identity;
    use netbuild_proto::membership::Presence;
    use proptest::prelude::*;

    const KEY: MeshKey = MeshKey([7; 32]);

    fn voice() -> Voice {
        Voice::new(Identity::from_seed(&[1; 32]), &KEY, 1000, &[2; 32])
    }

    fn presence() -> Announcement {
        let region = String::new();
        let presence = Presence { region, mesh_addresses: Vec::new(), data_port: 1, started: 1 };
        Announcement::Presence(presence)
    }

    #[test]
    fn what_was_said_is_heard_once() {
        let (mut voice, mut ear) = (voice(), Ear::new(&KEY));
        let said = voice.say(&Announcement::Held(Vec::new())).unwrap();
        let heard = ear.hear(&said.body).unwrap();
        assert_eq!(
            (heard.origin, heard.signed),
            (Identity::from_seed(&[1; 32]).peer_id(), said.clone())
        );
        assert_eq!(ear.hear(&said.body), Err(Fault::Heard));
        assert_eq!(ear.highest(&heard.origin), said.sequence);
    }

    #[test]
    fn a_late_presence_counts_and_other_late_things_do_not() {
        let (mut voice, mut ear) = (voice(), Ear::new(&KEY));
        let [early, late] = [presence(), presence()].map(|said| voice.say(&said).unwrap().body);
        let held = voice.say(&Announcement::Held(Vec::new())).unwrap().body;
        for _ in 0..2000 {
            let busy = voice.say(&Announcement::Held(Vec::new())).unwrap();
            ear.replays.is_new(Identity::from_seed(&[1; 32]).peer_id(), busy.sequence);
        }
        assert!(ear.hear(&late).is_ok());
        assert_eq!(ear.hear(&early), Err(Fault::Heard));
        assert_eq!(ear.hear(&held), Err(Fault::Old));
    }

    #[test]
    fn a_liar_cannot_exhaust_the_numbers() {
        let mut voice = voice();
        voice.handle_remembered(u64::MAX);
        let first = voice.say(&presence()).unwrap().sequence;
        voice.handle_remembered(first + 500);
        assert!(first == 1001 && voice.say(&presence()).unwrap().sequence > first + 500);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_forged(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Ear::new(&KEY).hear(&bytes.into()), Err(Fault::Forged));
        }

        #[test]
        fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut body = voice().say(&presence()).unwrap().body.to_vec();
            let at = at.index(body.len());
            body[at] ^= flip;
            prop_assert_eq!(Ear::new(&KEY).hear(&body.into()), Err(Fault::Forged));
        }
    }
}
