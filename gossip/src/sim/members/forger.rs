//! Messages that a member may send and nobody may believe: what they say was signed by nobody with any business to.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::cluster::Cluster;
use super::keys::Key;
use crate::sim::Slot;
use crate::swim::{Accusation, Cause, Claims, Down, Fact, Member, Message, Record, SIGNATURE_LEN, Status, Version};

/// Accusers that would be enough if they were whom they seem to be.
const ACCUSERS: usize = 3;

/// What a node tells another, and what is wrong with it. None where nothing comes to mind.
pub(super) fn forge(cluster: &Cluster, to: Slot, by: Slot, rng: &mut SmallRng) -> Option<(&'static str, Message)> {
    let shared = &cluster.world.shared;
    let forger = cluster.member(by);
    let key = shared.keys.of(forger, *shared.directory.name(forger));
    let view = &cluster.world.node(to)?.machine;
    let living: Vec<Member> =
        view.members().iter().filter(|(_, fact)| fact.is_live()).map(|(member, _)| member).collect();
    let victim = *living.choose(rng)?;
    if victim == forger {
        return None;
    }
    let known = view.members().get(victim)?.record().clone();
    let say = |fact, rng: &mut SmallRng| match rng.random_bool(0.5) {
        true => Message::News(vec![Arc::new(fact)]),
        false => Message::Known(vec![Arc::new(fact)]),
    };
    Some(match rng.random_range(0..6) {
        0 => ("a newer record that it has signed itself", say(Fact::Said(newer(&known, Status::Alive, &key)), rng)),
        1 => ("a leave that it has signed itself", say(Fact::Said(newer(&known, Status::Left, &key)), rng)),
        2 => ("a record with another bit", say(Fact::Said(changed(&known, rng)?), rng)),
        3 => {
            let accusers: Vec<Member> = living.iter().copied().filter(|other| *other != victim).collect();
            let accusers = accusers.choose_multiple(rng, ACCUSERS).map(|other| *shared.directory.name(*other));
            let words = accusers.map(|name| Accusation::sign(name, &known, Cause::Gone, 0, &key));
            ("accusers who never said so", say(Fact::Down(Down::new(known.clone(), words)), rng))
        }
        4 => {
            let far = living.iter().copied().filter(|other| !view.is_near(&shared.directory, *other, victim));
            let far: Vec<Member> = far.filter(|other| *other != victim).collect();
            if far.len() < ACCUSERS {
                return None;
            }
            let accusers = far.choose_multiple(rng, ACCUSERS);
            let words = accusers.map(|other| {
                let name = *shared.directory.name(*other);
                Accusation::sign(name, &known, Cause::LongSilent, 0, &shared.keys.of(*other, name))
            });
            ("accusers who do not know it", say(Fact::Down(Down::new(known.clone(), words)), rng))
        }
        _ => {
            let accuser = *living.choose(rng)?;
            let name = *shared.directory.name(accuser);
            let word = Accusation::sign(name, &known, Cause::LongSilent, 0, &key);
            if accuser == forger {
                return None;
            }
            ("a word that another never said", Message::Accuse(word))
        }
    })
}

fn newer(of: &Record, status: Status, key: &Key) -> Arc<Record> {
    let Version { generation, incarnation } = of.version();
    let version = Version { generation, incarnation: incarnation.saturating_add(1) };
    Record::sign(Claims { version, status, ..of.claims().clone() }, key)
}

/// The record with one bit of what it says changed, if that is still one.
fn changed(of: &Record, rng: &mut SmallRng) -> Option<Arc<Record>> {
    let mut bytes = BytesMut::from(&of.signed()[..]);
    // Format and name stay: of another format it is none, and of another name it is about nobody.
    let place = rng.random_range(33..bytes.len() - SIGNATURE_LEN);
    bytes[place] ^= 1 << rng.random_range(0..8);
    Record::decode(Bytes::from(bytes)).ok()
}
