//! Names and peer ids: whom a handle stands for, and when it can be taken back.

use libp2p::PeerId;
use p2p_gossip::swim::{self, MEMBERS_MAX, Member, Name, Time};

use super::Membership;

/// Names that are known at all: of members, and of whoever has connected and said nothing yet.
const NAMES_MAX: usize = 2 * MEMBERS_MAX;

impl Membership {
    pub(super) fn peer_of(&self, member: Member) -> Option<PeerId> {
        self.directory.name(member).peer()
    }

    /// The member with a peer id, if there is one.
    pub(super) fn known(&self, peer: &PeerId) -> Option<Member> {
        self.directory.find(&Name::of_peer(peer)?)
    }

    /// The member with a peer id, from now on.
    pub(super) fn member_of(&mut self, peer: &PeerId) -> Option<Member> {
        let name = Name::of_peer(peer)?;
        let known = self.directory.find(&name);
        (known.is_some() || self.directory.len() < NAMES_MAX).then(|| {
            let member = self.directory.insert(name);
            self.leave_idle(member);
            member
        })
    }

    /// Nothing may be kept of a member any more: that is looked at in a while.
    pub(super) fn leave_idle(&mut self, member: Member) {
        let now = self.now();
        self.idle.entry(member).or_insert(now);
    }

    /// Forgets the names of whoever is nobody any more.
    pub(super) fn sweep(&mut self) {
        let now = self.now();
        let waits = |since: &Time| now.since(*since) <= swim::HANDLE_TIME;
        let is_used = |membership: &Self, member: Member| {
            let connections = &membership.connections;
            membership.machine.holds(member) || connections.values().any(|connection| connection.member == member)
        };
        for (member, since) in std::mem::take(&mut self.idle) {
            if waits(&since) {
                self.idle.insert(member, since);
            } else if !is_used(self, member) {
                self.directory.remove(member);
                self.reached.remove(&member);
            }
        }
    }
}
