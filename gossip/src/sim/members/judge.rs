//! What must hold in every run, whatever happens: looked at after everything that a node tells.

use std::collections::BTreeMap;

use super::cluster::Heard;
use crate::sim::Slot;
use crate::swim::{Cause, Event, Fact, Member, Precedence, Version};

/// Connections that a node keeps to those it watches, and those who watch it, at most.
const WATCHED_MAX: usize = 24;

/// Connections of a node for whatever purpose, at most.
const CONNECTIONS_MAX: usize = 160;

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
    /// Members whose home was copied: their processes contradict each other until one stops.
    copied: Vec<Member>,
    /// What did not hold.
    pub violations: Vec<String>,
}

impl Judge {
    /// From now on several processes speak for a member.
    pub fn note_copy(&mut self, member: Member) {
        self.copied.push(member);
    }

    /// A process starts that says this of itself.
    pub fn note_start(&mut self, member: Member, version: Version) {
        let issued = self.issued.entry(member).or_default();
        *issued = (*issued).max(version);
    }

    /// Looks at what a node has told.
    pub fn look(&mut self, heard: &Heard<'_>, event: &Event) {
        let Event::Changed(member, fact) = event else { return };
        let me = heard.world.shared.of_slot[heard.slot.0 as usize];
        let Some(peer) = heard.world.node(heard.slot) else { return };
        if *member == me {
            self.note_start(me, fact.version());
            self.hold(!matches!(**fact, Fact::Down(_)), heard, || format!("{me:?} takes itself for down: {fact:?}"));
        }
        let process = peer.machine.record().claims().instance;
        let before = self.newest.insert((heard.slot, process, *member), fact.precedence());
        let is_newer = before.is_none_or(|before| before < fact.precedence());
        self.hold(is_newer, heard, || format!("{me:?} went back on {member:?}: {fact:?}"));
        let is_copied = self.copied.contains(member);
        let which = (*member, fact.version(), fact.record().claims().instance);
        let hash = *self.hashes.entry(which).or_insert_with(|| fact.record().hash());
        self.hold(is_copied || hash == fact.record().hash(), heard, || {
            format!("two records of one version: {fact:?} {:?}", fact.record().claims())
        });
        let issued = self.issued.get(member).copied().unwrap_or_default();
        self.hold(fact.version() <= issued, heard, || {
            format!("{me:?} knows {fact:?}, of which {member:?} has said nothing")
        });
        if let Fact::Down(down) = &**fact {
            let causes: Vec<Cause> = down.accusations().iter().map(|accusation| accusation.cause).collect();
            let alone = causes.contains(&Cause::LongSilent);
            // How many are enough depends on how many there are; nobody is enough for nothing.
            self.hold(alone || !causes.is_empty(), heard, || format!("nobody says that {member:?} is down: {fact:?}"));
        }
        let watched = peer.machine.connections().filter(|(_, watched)| *watched).count();
        let all = heard.world.connections(heard.slot);
        self.hold(watched <= WATCHED_MAX, heard, || format!("{me:?} watches {watched}"));
        self.hold(all <= CONNECTIONS_MAX, heard, || format!("{me:?} has {all} connections"));
    }

    fn hold(&mut self, holds: bool, heard: &Heard<'_>, what: impl FnOnce() -> String) {
        if !holds && self.violations.len() < 10 {
            self.violations.push(format!("{} us, node {}: {}", heard.now.0, heard.slot.0, what()));
        }
    }
}
