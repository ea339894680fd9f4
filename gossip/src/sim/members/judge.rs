//! What must hold in every run, whatever happens: looked at after everything that happens to a node.
//!
//! It knows the facts that nodes tell and the records that they issue, and no rule by which they come to them.

use std::collections::BTreeMap;

use super::cluster::Heard;
use super::peer::Peer;
use crate::sim::{Slot, World};
use crate::swim::{Cause, Down, Event, Fact, Member, Precedence, Sizes, State, Version};

/// Connections that a node keeps to those it watches, and those who watch it, at most.
const WATCHED_MAX: usize = 24;

/// Connections of a node for whatever purpose, at most.
const CONNECTIONS_MAX: usize = 160;

/// What a node keeps beside its members, in a cluster of at most 64.
const SIZES_MAX: Sizes = Sizes { links: 160, cases: 72, inquiries: 64, doubts: 16_384 + 72, news: 1024 };

/// Accusers that a Down needs, unless one said so after a long time.
const ACCUSERS: usize = 3;

/// Watches one run.
#[derive(Default)]
pub struct Judge {
    /// The newest that each process has told of each member.
    newest: BTreeMap<(Slot, u64, Member), Precedence>,
    /// What each record of each process says that was ever seen. One that has lost its disk begins with numbers that were
    /// used before.
    hashes: BTreeMap<(Member, Version, u64), u64>,
    /// The newest record that each member has told of itself.
    issued: BTreeMap<Member, Version>,
    /// Which records were ever said to be down.
    ended: BTreeMap<(Member, Version), ()>,
    /// Members whose home was copied: their processes contradict each other until one stops.
    copied: Vec<Member>,
    /// Nothing happens for which anybody may be put down.
    nobody_is_down: bool,
    /// What did not hold.
    pub violations: Vec<String>,
}

impl Judge {
    /// From now on several processes speak for a member.
    pub fn note_copy(&mut self, member: Member) {
        self.copied.push(member);
    }

    /// Nothing is to happen in this run for which anybody may be put down.
    pub fn expect_nobody_down(&mut self) {
        self.nobody_is_down = true;
    }

    /// A process starts that says this of itself.
    pub fn note_start(&mut self, member: Member, version: Version) {
        let issued = self.issued.entry(member).or_default();
        *issued = (*issued).max(version);
    }

    /// Looks at a node to which something has just happened.
    pub fn look_at(&mut self, world: &World<Peer>, slot: Slot) {
        let Some(peer) = world.node(slot) else { return };
        let me = world.shared.of_slot[slot.0 as usize];
        let when = || format!("{} us, node {}", world.now().0, slot.0);
        self.hold(peer.machine.state(me) != Some(State::Down), || format!("{}: takes itself for down", when()));
        let watched = peer.machine.connections().filter(|(_, watched)| *watched).count();
        self.hold(watched <= WATCHED_MAX, || format!("{}: watches {watched}", when()));
        let all = world.connections(slot);
        self.hold(all <= CONNECTIONS_MAX, || format!("{}: has {all} connections", when()));
        let sizes = peer.machine.sizes();
        self.hold(is_within(sizes), || format!("{}: keeps {sizes:?}", when()));
    }

    /// Looks at what a node has told.
    pub fn look(&mut self, heard: &Heard<'_>, event: &Event) {
        if let Event::PutOut | Event::Isolated(true) = event {
            self.hold(!self.nobody_is_down, || format!("{} us, node {}: {event:?}", heard.now.0, heard.slot.0));
        }
        let Event::Changed(member, fact) = event else { return };
        let me = heard.world.shared.of_slot[heard.slot.0 as usize];
        let Some(peer) = heard.world.node(heard.slot) else { return };
        let when = || format!("{} us, node {}", heard.now.0, heard.slot.0);
        if *member == me {
            self.note_start(me, fact.version());
        }
        let process = peer.machine.record().claims().instance;
        let before = self.newest.insert((heard.slot, process, *member), fact.precedence());
        let is_newer = before.is_none_or(|before| before < fact.precedence());
        self.hold(is_newer, || format!("{}: went back on {member:?}: {fact:?}", when()));
        let is_copied = self.copied.contains(member);
        let which = (*member, fact.version(), fact.record().claims().instance);
        let hash = *self.hashes.entry(which).or_insert_with(|| fact.record().hash());
        self.hold(is_copied || hash == fact.record().hash(), || {
            format!("{}: two records of one version: {fact:?} {:?}", when(), fact.record().claims())
        });
        let issued = self.issued.get(member).copied().unwrap_or_default();
        self.hold(fact.version() <= issued, || {
            format!("{}: knows {fact:?}, of which {member:?} has said nothing", when())
        });
        self.hold(fact.is_genuine(&heard.world.shared.keys), || format!("{}: believes {fact:?}", when()));
        if let Fact::Down(down) = &**fact {
            self.hold(!self.nobody_is_down, || format!("{}: for no reason {fact:?}", when()));
            // Whoever says so first has put it down; others believe it for what it says.
            if self.ended.insert((*member, fact.version()), ()).is_none() {
                let watchers = peer.machine.watchers(&heard.world.shared.directory, *member);
                self.hold(is_copied || is_enough(down, watchers), || {
                    format!("{}: too few of {watchers} say {fact:?}", when())
                });
            }
        }
    }

    fn hold(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.violations.len() < 10 {
            self.violations.push(what());
        }
    }
}

fn is_within(sizes: Sizes) -> bool {
    let Sizes { links, cases, inquiries, doubts, news } = sizes;
    links <= SIZES_MAX.links
        && cases <= SIZES_MAX.cases
        && inquiries <= SIZES_MAX.inquiries
        && doubts <= SIZES_MAX.doubts
        && news <= SIZES_MAX.news
}

/// Whether so many say that a member is down as must, where so many watch it.
fn is_enough(down: &Down, watchers: usize) -> bool {
    let is_alone_enough = |cause| matches!(cause, Cause::LongSilent | Cause::LongUnmet);
    let accusations = down.accusations();
    let needed = ACCUSERS.min(watchers / 2 + 1);
    accusations.len() >= needed || accusations.iter().any(|accusation| is_alone_enough(accusation.cause))
}
