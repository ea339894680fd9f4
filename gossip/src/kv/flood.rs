//! Handing writes on at once, along the edges that membership keeps.
//!
//! A write is told to every edge but that by which it came, the first time it is heard of; long ones to two, and only by name
//! to the others, who ask for them if they have not come another way. A node may hand on what it has not kept yet: nothing
//! follows from that. What is lost on the way is found missing later ([`super::anti_entropy`]).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::dot::Dot;
use crate::swim::Name;

/// Longer writes are told by name.
pub const WHOLE_LEN_MAX: usize = 1 << 10;

/// Edges that get also long ones whole.
const WHOLE_EDGES: usize = 2;

/// Writes that are remembered, so that none is handed on twice.
pub const REMEMBERED_MAX: usize = 1 << 14;

/// Bytes of writes that are kept for those who ask.
pub const KEPT_LEN_MAX: usize = 4 << 20;

/// What goes along an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// A write, as its author has encoded it.
    Write(Dot, Bytes),
    /// There is one of this name.
    Have(Dot),
    /// It has not come here.
    Want(Dot),
}

/// Messages, each for an edge.
pub type Told = Vec<(Name, Carried)>;

/// Writes on their way through a node.
#[derive(Default)]
pub struct Flood {
    edges: Vec<Name>,
    /// The last that were heard of, with their bytes while they are kept.
    known: BTreeMap<Dot, Option<Bytes>>,
    order: VecDeque<Dot>,
    /// Of so many, from the oldest on, the bytes are gone.
    bare: usize,
    kept_len: usize,
    /// Asked for, and of whom.
    wanted: BTreeMap<Dot, Name>,
    turn: usize,
}

impl Flood {
    /// There is an edge.
    pub fn up(&mut self, edge: Name) {
        if !self.edges.contains(&edge) {
            self.edges.push(edge);
        }
    }

    /// It is gone.
    pub fn down(&mut self, edge: Name) {
        self.edges.retain(|other| *other != edge);
        self.wanted.retain(|_, of| *of != edge);
    }

    /// Tells of a write that this node has made, and kept.
    pub fn made(&mut self, dot: Dot, bytes: Bytes) -> Told {
        self.hand_on(None, dot, bytes)
    }

    /// What follows from what has come by an edge; whether it is a write that was not handed on before. `is_seen` says
    /// whether this node holds one, or has.
    pub fn came(&mut self, by: Name, carried: Carried, is_seen: impl Fn(&Dot) -> bool) -> (Told, bool) {
        match carried {
            Carried::Write(dot, _) if self.known.contains_key(&dot) || is_seen(&dot) => (Vec::new(), false),
            Carried::Write(dot, bytes) => (self.hand_on(Some(by), dot, bytes), true),
            Carried::Have(dot) if self.known.contains_key(&dot) || is_seen(&dot) || self.wanted.contains_key(&dot) => {
                (Vec::new(), false)
            }
            Carried::Have(dot) => {
                if self.wanted.len() >= REMEMBERED_MAX {
                    self.wanted.pop_first();
                }
                self.wanted.insert(dot, by);
                (vec![(by, Carried::Want(dot))], false)
            }
            Carried::Want(dot) => match self.known.get(&dot) {
                Some(Some(bytes)) => (vec![(by, Carried::Write(dot, bytes.clone()))], false),
                Some(None) | None => (Vec::new(), false),
            },
        }
    }

    fn hand_on(&mut self, by: Option<Name>, dot: Dot, bytes: Bytes) -> Told {
        self.remember(dot, bytes.clone());
        let edges: Vec<Name> = self.edges.iter().copied().filter(|edge| Some(*edge) != by).collect();
        self.turn = self.turn.wrapping_add(1);
        let is_long = bytes.len() > WHOLE_LEN_MAX;
        let tell = |(n, edge): (usize, &Name)| {
            let gets_it = !is_long || (n + self.turn) % edges.len() < WHOLE_EDGES;
            (*edge, if gets_it { Carried::Write(dot, bytes.clone()) } else { Carried::Have(dot) })
        };
        edges.iter().enumerate().map(tell).collect()
    }

    fn remember(&mut self, dot: Dot, bytes: Bytes) {
        self.wanted.remove(&dot);
        self.kept_len += bytes.len();
        self.order.push_back(dot);
        self.known.insert(dot, Some(bytes));
        while self.kept_len > KEPT_LEN_MAX
            && let Some(oldest) = self.order.get(self.bare).copied()
        {
            self.let_go(&oldest);
            self.bare += 1;
        }
        while self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.let_go(&oldest);
            self.bare = self.bare.saturating_sub(1);
            self.known.remove(&oldest);
        }
    }

    fn let_go(&mut self, dot: &Dot) {
        let bytes = self.known.get_mut(dot).and_then(Option::take);
        self.kept_len -= bytes.map_or(0, |bytes| bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::super::dot::Actor;
    use super::*;

    fn dot(counter: u64) -> Dot {
        Dot { actor: Actor { peer: Name([1; 32]), epoch: 1 }, counter }
    }

    fn edges(count: u8) -> (Flood, Vec<Name>) {
        let names: Vec<Name> = (0..count).map(|n| Name([n; 32])).collect();
        let mut flood = Flood::default();
        names.iter().for_each(|name| flood.up(*name));
        (flood, names)
    }

    #[test]
    fn a_write_goes_once_to_everybody_but_who_has_brought_it() {
        let (mut flood, names) = edges(4);
        let bytes = Bytes::from_static(b"short");
        let (told, is_new) = flood.came(names[1], Carried::Write(dot(1), bytes.clone()), |_| false);
        assert!(is_new);
        let to: Vec<Name> = told.iter().map(|(to, _)| *to).collect();
        assert_eq!(to, [names[0], names[2], names[3]]);
        assert!(told.iter().all(|(_, carried)| *carried == Carried::Write(dot(1), bytes.clone())));
        assert_eq!(flood.came(names[2], Carried::Write(dot(1), bytes.clone()), |_| false), (vec![], false));
        assert_eq!(flood.came(names[2], Carried::Write(dot(2), bytes), |_| true), (vec![], false), "seen long ago");
    }

    #[test]
    fn a_long_write_goes_whole_to_two_and_to_the_others_if_they_ask() {
        let (mut flood, names) = edges(6);
        let bytes = Bytes::from(vec![7; WHOLE_LEN_MAX + 1]);
        let told = flood.made(dot(1), bytes.clone());
        let whole = told.iter().filter(|(_, carried)| matches!(carried, Carried::Write(..))).count();
        assert_eq!((told.len(), whole), (6, 2));
        let answer = flood.came(names[3], Carried::Want(dot(1)), |_| true);
        assert_eq!(answer, (vec![(names[3], Carried::Write(dot(1), bytes))], false));
        // The other end: asks one at a time, and another when that one is gone.
        let (mut flood, names) = edges(3);
        let asks = |of: Name| (vec![(of, Carried::Want(dot(1)))], false);
        assert_eq!(flood.came(names[0], Carried::Have(dot(1)), |_| false), asks(names[0]));
        assert_eq!(flood.came(names[1], Carried::Have(dot(1)), |_| false), (vec![], false));
        flood.down(names[0]);
        assert_eq!(flood.came(names[2], Carried::Have(dot(1)), |_| false), asks(names[2]));
    }

    #[test]
    fn what_is_remembered_and_kept_is_bounded() {
        let (mut flood, _) = edges(0);
        for (first, len) in [(1, 10), (1_000_000, 1000), (2_000_000, 10)] {
            for counter in first..=first + 2 * REMEMBERED_MAX as u64 {
                flood.made(dot(counter), Bytes::from(vec![0; len]));
            }
            assert_eq!((flood.known.len(), flood.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
            let kept: usize = flood.known.values().flatten().map(Bytes::len).sum();
            assert_eq!(kept, flood.kept_len);
            let full = (len * REMEMBERED_MAX).min(KEPT_LEN_MAX);
            assert!((full - len + 1..=full).contains(&kept), "{kept} of {full}");
        }
    }
}
