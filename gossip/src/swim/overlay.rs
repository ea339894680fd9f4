//! Who watches whom: the neighbours of a member on four rings on which all stand in the order of their hashed names.
//!
//! Everybody computes the same from the same view. Rings of hashes make a random regular graph: of any few that fail
//! together, each is most likely watched by others that do not, and a fact is everywhere after a few steps
//! (Stoica et al., Chord, SIGCOMM 2001, for the ring; Bollobás 1988 for the diameter of such graphs).

use super::members::Members;
use super::name::{Directory, Member, RINGS};

/// Neighbours of a member: one on either side of it on every ring, or all others where there are no more.
pub const NEIGHBOURS_MAX: usize = 2 * RINGS;

/// An accuser counts if it is within so many living places of its subject on a ring: views differ by a moment, so that who
/// was next may be next but one already.
const PLACES: usize = 2;

/// The neighbours of a member in a view, each once, without those that are to be passed over.
pub(super) fn neighbours(
    directory: &Directory,
    members: &Members,
    of: Member,
    pass: impl Fn(Member) -> bool,
) -> Vec<Member> {
    let takes = |member: &Member| members.is_live(*member) && !pass(*member);
    let others = members.live() - usize::from(members.is_live(of));
    if others <= NEIGHBOURS_MAX {
        return directory.after(of, 0).filter(takes).collect();
    }
    let mut found = Vec::with_capacity(NEIGHBOURS_MAX);
    for ring in 0..RINGS {
        let sides = [directory.after(of, ring).find(takes), directory.before(of, ring).find(takes)];
        for member in sides.into_iter().flatten() {
            if !found.contains(&member) {
                found.push(member);
            }
        }
    }
    found
}

/// Those of a few who stand nearest to a member, on either side of it on every ring, each once.
pub(super) fn nearest(directory: &Directory, few: &[Member], to: Member) -> Vec<Member> {
    let mut found = Vec::with_capacity(NEIGHBOURS_MAX);
    for ring in 0..RINGS {
        let after = few.iter().min_by_key(|member| directory.distance(to, **member, ring));
        let before = few.iter().min_by_key(|member| directory.distance(**member, to, ring));
        for member in [after, before].into_iter().flatten() {
            if !found.contains(member) {
                found.push(*member);
            }
        }
    }
    found
}

/// Whether a member may be among those who watch another, give or take what was not heard of yet.
pub(super) fn may_watch(directory: &Directory, members: &Members, watcher: Member, subject: Member) -> bool {
    if watcher == subject || !members.is_live(watcher) {
        return false;
    }
    if members.live() <= NEIGHBOURS_MAX + 2 {
        return true;
    }
    let is_live = |member: &Member| members.is_live(*member);
    (0..RINGS).any(|ring| {
        directory.after(subject, ring).filter(is_live).take(PLACES).any(|member| member == watcher)
            || directory.before(subject, ring).filter(is_live).take(PLACES).any(|member| member == watcher)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fact::{Down, Fact};
    use super::super::name::Name;
    use super::super::testing::{claims, record};
    use super::*;

    fn cluster(count: u8) -> (Directory, Members, Vec<Member>) {
        let (mut directory, mut members) = (Directory::default(), Members::default());
        let all: Vec<Member> = (0..count).map(|n| directory.insert(Name([n; 32]))).collect();
        for (n, member) in (0..count).zip(&all) {
            members.merge(&directory, *member, &Arc::new(Fact::Said(record(claims(n)))));
        }
        (directory, members, all)
    }

    fn end(directory: &Directory, members: &mut Members, member: Member) {
        let record = members.get(member).expect("known").record().clone();
        members.merge(directory, member, &Arc::new(Fact::Down(Down::new(record, []))));
    }

    #[test]
    fn everybody_watches_everybody_in_a_small_cluster() {
        for count in 1..=9 {
            let (directory, members, all) = cluster(count);
            for member in &all {
                let neighbours = neighbours(&directory, &members, *member, |_| false);
                assert_eq!(neighbours.len(), all.len() - 1);
                assert!(!neighbours.contains(member));
            }
        }
    }

    #[test]
    fn to_be_neighbours_is_mutual() {
        let (directory, members, all) = cluster(60);
        for one in &all {
            for other in neighbours(&directory, &members, *one, |_| false) {
                assert!(neighbours(&directory, &members, other, |_| false).contains(one));
                assert!(may_watch(&directory, &members, *one, other));
            }
        }
    }

    #[test]
    fn the_next_takes_the_place_of_who_is_gone() {
        let (directory, mut members, all) = cluster(40);
        let me = all[0];
        let before = neighbours(&directory, &members, me, |_| false);
        for gone in &before {
            end(&directory, &mut members, *gone);
        }
        let after = neighbours(&directory, &members, me, |_| false);
        assert!(after.len() > 4);
        assert!(after.iter().all(|member| !before.contains(member)));
    }

    #[test]
    fn the_nearest_of_all_are_the_neighbours() {
        let (directory, members, all) = cluster(60);
        for (at, member) in all.iter().enumerate() {
            let others = [&all[..at], &all[at + 1..]].concat();
            let mut nearest = nearest(&directory, &others, *member);
            let mut neighbours = neighbours(&directory, &members, *member, |_| false);
            nearest.sort_unstable();
            neighbours.sort_unstable();
            assert_eq!(nearest, neighbours);
        }
    }

    #[test]
    fn only_who_stands_near_may_accuse() {
        let (directory, members, all) = cluster(100);
        let near = all.iter().filter(|watcher| may_watch(&directory, &members, **watcher, all[0])).count();
        assert!((9..=4 * RINGS).contains(&near), "{near} of 100");
        assert!(!may_watch(&directory, &members, all[0], all[0]));
    }
}
