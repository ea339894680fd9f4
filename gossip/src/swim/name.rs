//! Names of members, their places on the rings, and who signs for them.

use std::collections::BTreeMap;
use std::fmt;

/// Rings of the overlay: on each, a member has a neighbour on either side.
pub const RINGS: usize = 4;

/// Longest signature in bytes: that of Ed25519.
pub const SIGNATURE_LEN: usize = 64;

/// A member's name: its Ed25519 public key, of which its peer id is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub [u8; 32]);

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

/// What a member makes with its key of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(pub [u8; SIGNATURE_LEN]);

/// A member's own key, and what others made with theirs.
pub trait Keys {
    /// Signs with this member's own key.
    fn sign(&self, bytes: &[u8]) -> Signature;

    /// Whether the owner of a name has signed these bytes.
    fn is_signed(&self, by: &Name, bytes: &[u8], signature: &Signature) -> bool;
}

/// A member within this process: short for its name, and the index of what is kept for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(pub(super) u32);

impl Member {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    /// The number that a tool may show in place of a name.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Names that are known, whatever else is known of their owners, and the order in which they stand on the rings.
///
/// Places follow from names alone, so that everybody computes the same; a simulated cluster shares one directory.
#[derive(Default)]
pub struct Directory {
    entries: Vec<Entry>,
    by_name: BTreeMap<Name, Member>,
    free: Vec<Member>,
    rings: [Vec<Place>; RINGS],
}

struct Entry {
    name: Name,
    places: [u64; RINGS],
}

/// Where a member stands on a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at: u64,
    member: Member,
}

impl Directory {
    /// The member of a name, from now on.
    pub fn insert(&mut self, name: Name) -> Member {
        if let Some(member) = self.by_name.get(&name) {
            return *member;
        }
        let entry = Entry { name, places: places_of(&name) };
        let member = match self.free.pop() {
            Some(member) => member,
            None => Member(u32::try_from(self.entries.len()).expect("memory ends long before")),
        };
        for (ring, at) in self.rings.iter_mut().zip(entry.places) {
            let place = Place { at, member };
            let index = ring.partition_point(|other| *other < place);
            ring.insert(index, place);
        }
        match self.entries.get_mut(member.index()) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
        self.by_name.insert(name, member);
        member
    }

    /// Forgets a name of which nobody holds the member any more.
    pub fn remove(&mut self, member: Member) {
        let Entry { name, places } = &self.entries[member.index()];
        if self.by_name.get(name) != Some(&member) {
            return;
        }
        self.by_name.remove(name);
        for (ring, at) in self.rings.iter_mut().zip(places) {
            let place = Place { at: *at, member };
            let index = ring.partition_point(|other| *other < place);
            ring.remove(index);
        }
        self.free.push(member);
    }

    /// The member of a name, if it is known.
    pub fn find(&self, name: &Name) -> Option<Member> {
        self.by_name.get(name).copied()
    }

    /// A member's name.
    pub fn name(&self, member: Member) -> &Name {
        &self.entries[member.index()].name
    }

    /// A byte that spreads members evenly.
    pub(super) fn spread(&self, member: Member) -> u8 {
        let [first, ..] = self.entries[member.index()].places;
        first as u8
    }

    /// Names there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The others on a ring, from a member's place onwards, each once.
    pub(super) fn after(&self, member: Member, ring: usize) -> impl Iterator<Item = Member> + '_ {
        let (before, after) = self.around(member, ring);
        after.iter().chain(before).map(|place| place.member)
    }

    /// The others on a ring, from a member's place backwards, each once.
    pub(super) fn before(&self, member: Member, ring: usize) -> impl Iterator<Item = Member> + '_ {
        let (before, after) = self.around(member, ring);
        before.iter().rev().chain(after.iter().rev()).map(|place| place.member)
    }

    /// How far it is on a ring from one member onwards to another.
    pub(super) fn distance(&self, from: Member, to: Member, ring: usize) -> u64 {
        let place = |member: Member| self.entries[member.index()].places[ring];
        place(to).wrapping_sub(place(from))
    }

    fn around(&self, member: Member, ring: usize) -> (&[Place], &[Place]) {
        let places = &self.rings[ring];
        let place = Place { at: self.entries[member.index()].places[ring], member };
        let index = places.partition_point(|other| *other < place);
        (&places[..index], &places[index + 1..])
    }
}

/// Where a name stands on each ring: parts of one hash.
fn places_of(name: &Name) -> [u64; RINGS] {
    let hash = blake3::derive_key("p2p-node 2026-11 places on the rings of the overlay", &name.0);
    let mut places = [0; RINGS];
    for (place, bytes) in places.iter_mut().zip(hash.chunks_exact(8)) {
        *place = u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u8) -> Name {
        Name([n; 32])
    }

    #[test]
    fn a_ring_is_walked_both_ways_and_everybody_is_met_once() {
        let mut directory = Directory::default();
        let members: Vec<Member> = (0..20).map(|n| directory.insert(name(n))).collect();
        for ring in 0..RINGS {
            let after: Vec<Member> = directory.after(members[3], ring).collect();
            let mut before: Vec<Member> = directory.before(members[3], ring).collect();
            before.reverse();
            assert_eq!(after, before);
            let mut all = after.clone();
            all.push(members[3]);
            all.sort_unstable();
            assert_eq!(all, members);
        }
    }

    #[test]
    fn who_is_removed_is_gone_and_the_place_is_used_again() {
        let mut directory = Directory::default();
        let members: Vec<Member> = (0..10).map(|n| directory.insert(name(n))).collect();
        directory.remove(members[4]);
        directory.remove(members[4]);
        assert_eq!(directory.find(&name(4)), None);
        assert!(directory.after(members[0], 0).all(|member| member != members[4]));
        let newcomer = directory.insert(name(40));
        assert_eq!(newcomer, members[4]);
        assert_eq!(directory.name(newcomer), &name(40));
        assert_eq!(directory.len(), 10);
        assert_eq!(directory.after(newcomer, 2).count(), 9);
    }
}
