//! Handing writes on at once, along the edges that membership keeps.
//!
//! A write is told along every edge but that by which it came, the first time it is heard of: whole along some, and along the
//! others only by name, a moment later and unless they have told of it meanwhile; whoever has not got it another way asks for it.
//! Which edges get it whole comes of what they were good for: one that has brought something new, or was asked for something,
//! does, and one whose two ends had it both already does not. That makes a tree for all writers together, and what breaks is
//! healed by names: Plumtree (Leitao, Pereira, Rodrigues: "Epidemic Broadcast Trees", SRDS 2007, section 3), whose PRUNE is here
//! the name of what came twice, and whose GRAFT is to ask for a write. A node may hand on what it has not kept yet: nothing
//! follows from that. What is lost on the way is found missing later ([`super::anti_entropy`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::dot::Dot;
use crate::swim::Name;

/// For so long names are gathered before they are told.
pub const NAMES_TIME: Duration = Duration::from_millis(100);

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

/// An edge.
#[derive(Default)]
struct Edge {
    /// It gets writes by name.
    is_lazy: bool,
    /// Those that it is to be told of.
    names: BTreeSet<Dot>,
}

/// Writes on their way through a node.
#[derive(Default)]
pub struct Flood {
    edges: BTreeMap<Name, Edge>,
    /// The last that were heard of, with their bytes while they are kept.
    known: BTreeMap<Dot, Option<Bytes>>,
    order: VecDeque<Dot>,
    /// Of so many, from the oldest on, the bytes are gone.
    bare: usize,
    kept_len: usize,
    /// Asked for, and of whom.
    wanted: BTreeMap<Dot, Name>,
}

impl Flood {
    /// There is an edge.
    pub fn up(&mut self, edge: Name) {
        self.edges.entry(edge).or_default();
    }

    /// It is gone.
    pub fn down(&mut self, edge: Name) {
        self.edges.remove(&edge);
        self.wanted.retain(|_, of| *of != edge);
    }

    /// Whether there is anything to be told by name.
    pub fn has_names(&self) -> bool {
        self.edges.values().any(|edge| !edge.names.is_empty())
    }

    /// What is to be told by name.
    pub fn take_names(&mut self) -> Told {
        let mut told = Vec::new();
        for (name, edge) in &mut self.edges {
            told.extend(std::mem::take(&mut edge.names).into_iter().map(|dot| (*name, Carried::Have(dot))));
        }
        told
    }

    /// Tells of a write that this node has made, and kept.
    pub fn made(&mut self, dot: Dot, bytes: Bytes) -> Told {
        self.hand_on(None, dot, bytes)
    }

    /// What follows from what has come by an edge; whether it is a write that was not handed on before. `is_seen` says
    /// whether this node holds one, or has.
    pub fn came(&mut self, by: Name, carried: Carried, is_seen: impl Fn(&Dot) -> bool) -> (Told, bool) {
        let is_known = |flood: &Self, dot: &Dot| flood.known.contains_key(dot) || is_seen(dot);
        match carried {
            Carried::Write(dot, _) if is_known(self, &dot) => {
                self.was_idle(by, &dot);
                (vec![(by, Carried::Have(dot))], false)
            }
            Carried::Write(dot, bytes) => {
                self.was_good(by);
                (self.hand_on(Some(by), dot, bytes), true)
            }
            Carried::Have(dot) if is_known(self, &dot) => {
                self.was_idle(by, &dot);
                (Vec::new(), false)
            }
            Carried::Have(dot) if self.wanted.contains_key(&dot) => (Vec::new(), false),
            Carried::Have(dot) => {
                self.was_good(by);
                if self.wanted.len() >= REMEMBERED_MAX {
                    self.wanted.pop_first();
                }
                self.wanted.insert(dot, by);
                (vec![(by, Carried::Want(dot))], false)
            }
            Carried::Want(dot) => {
                self.was_good(by);
                match self.known.get(&dot) {
                    Some(Some(bytes)) => (vec![(by, Carried::Write(dot, bytes.clone()))], false),
                    Some(None) | None => (Vec::new(), false),
                }
            }
        }
    }

    /// Something would not have come without this edge.
    fn was_good(&mut self, edge: Name) {
        if let Some(edge) = self.edges.get_mut(&edge) {
            edge.is_lazy = false;
        }
    }

    /// Both ends had this write already.
    fn was_idle(&mut self, edge: Name, dot: &Dot) {
        if let Some(edge) = self.edges.get_mut(&edge) {
            edge.is_lazy = true;
            edge.names.remove(dot);
        }
    }

    fn hand_on(&mut self, by: Option<Name>, dot: Dot, bytes: Bytes) -> Told {
        self.remember(dot, bytes.clone());
        let mut told = Vec::new();
        for (name, edge) in self.edges.iter_mut().filter(|(name, _)| Some(**name) != by) {
            if !edge.is_lazy {
                told.push((*name, Carried::Write(dot, bytes.clone())));
            } else if edge.names.len() < REMEMBERED_MAX {
                edge.names.insert(dot);
            }
        }
        told
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
    fn a_write_goes_on_to_everybody_but_who_has_brought_it() {
        let (mut flood, names) = edges(4);
        let bytes = Bytes::from_static(b"bytes");
        let (told, is_new) = flood.came(names[1], Carried::Write(dot(1), bytes.clone()), |_| false);
        assert!(is_new);
        let to: Vec<Name> = told.iter().map(|(to, _)| *to).collect();
        assert_eq!(to, [names[0], names[2], names[3]]);
        assert!(told.iter().all(|(_, carried)| *carried == Carried::Write(dot(1), bytes.clone())));
        let again = (vec![(names[2], Carried::Have(dot(1)))], false);
        assert_eq!(flood.came(names[2], Carried::Write(dot(1), bytes.clone()), |_| false), again);
        let seen = (vec![(names[2], Carried::Have(dot(2)))], false);
        assert_eq!(flood.came(names[2], Carried::Write(dot(2), bytes), |_| true), seen, "long ago");
    }

    #[test]
    fn an_edge_whose_ends_had_it_both_gets_names_until_it_was_good_for_something() {
        let (mut flood, names) = edges(3);
        let bytes = Bytes::from_static(b"bytes");
        let write = |n| Carried::Write(dot(n), bytes.clone());
        assert_eq!(flood.made(dot(1), bytes.clone()).len(), 3);
        flood.came(names[0], write(1), |_| false);
        flood.came(names[1], Carried::Have(dot(1)), |_| false);
        assert_eq!(flood.made(dot(2), bytes.clone()), [(names[2], write(2))]);
        assert!(flood.has_names());
        // That one has it already.
        flood.came(names[0], Carried::Have(dot(2)), |_| false);
        assert_eq!(flood.take_names(), [(names[1], Carried::Have(dot(2)))]);
        assert!(!flood.has_names());
        assert_eq!(flood.came(names[1], Carried::Want(dot(2)), |_| true), (vec![(names[1], write(2))], false));
        let told = flood.came(names[0], write(3), |_| false).0;
        assert_eq!(told, [(names[1], write(3)), (names[2], write(3))]);
        assert_eq!(flood.made(dot(4), bytes.clone()).len(), 3);
    }

    /// Nodes whose messages take their turns; names are told once nothing else is under way.
    struct Net {
        nodes: BTreeMap<Name, (Flood, BTreeSet<Dot>)>,
        under_way: VecDeque<(Name, Name, Carried)>,
        whole: usize,
    }

    impl Net {
        fn write(&mut self, by: Name, dot: Dot) {
            let (flood, seen) = self.nodes.get_mut(&by).expect("it is there");
            seen.insert(dot);
            let told = flood.made(dot, Bytes::from_static(b"bytes"));
            self.under_way.extend(told.into_iter().map(|(to, carried)| (by, to, carried)));
            loop {
                while let Some((from, to, carried)) = self.under_way.pop_front() {
                    self.whole += usize::from(matches!(carried, Carried::Write(..)));
                    self.come(from, to, carried);
                }
                for (name, (flood, _)) in &mut self.nodes {
                    let told = flood.take_names().into_iter();
                    self.under_way.extend(told.map(|(to, carried)| (*name, to, carried)));
                }
                if self.under_way.is_empty() {
                    break;
                }
            }
            assert!(self.nodes.values().all(|(_, seen)| seen.contains(&dot)), "it is everywhere");
        }

        fn come(&mut self, from: Name, to: Name, carried: Carried) {
            let Some((flood, seen)) = self.nodes.get_mut(&to) else { return };
            let dot = match &carried {
                Carried::Write(dot, _) | Carried::Have(dot) | Carried::Want(dot) => *dot,
            };
            let (told, is_new) = flood.came(from, carried, |dot| seen.contains(dot));
            if is_new {
                seen.insert(dot);
            }
            self.under_way.extend(told.into_iter().map(|(other, carried)| (to, other, carried)));
        }
    }

    #[test]
    fn edges_come_to_be_a_tree_which_heals_when_some_of_it_is_gone() {
        const NODES: u8 = 25;
        let names: Vec<Name> = (0..NODES).map(|n| Name([n; 32])).collect();
        let mut net = Net { nodes: BTreeMap::new(), under_way: VecDeque::new(), whole: 0 };
        for (n, name) in names.iter().enumerate() {
            let mut flood = Flood::default();
            // As many again come from the other side.
            let steps = [1, 3, 7, 12].into_iter().flat_map(|step| [n + step, n + names.len() - step]);
            steps.for_each(|other| flood.up(names[other % names.len()]));
            net.nodes.insert(*name, (flood, BTreeSet::new()));
        }
        let mut counter = 0;
        let mut whole_of = |net: &mut Net, count: u64| {
            net.whole = 0;
            for _ in 0..count {
                counter += 1;
                let living: Vec<Name> = net.nodes.keys().copied().collect();
                net.write(living[(counter * 7) as usize % living.len()], dot(counter));
            }
            net.whole as f64 / count as f64
        };
        let first = whole_of(&mut net, 1);
        assert!(first > 150.0, "{first}");
        whole_of(&mut net, 20);
        let later = whole_of(&mut net, 50);
        assert!(later < 1.1 * f64::from(NODES), "{later}");
        for name in names.iter().step_by(4) {
            net.nodes.remove(name);
            net.nodes.values_mut().for_each(|(flood, _)| flood.down(*name));
        }
        whole_of(&mut net, 20);
        let healed = whole_of(&mut net, 50);
        assert!(healed < 1.1 * net.nodes.len() as f64, "{healed}");
    }

    #[test]
    fn a_name_is_asked_for_of_one_at_a_time_and_of_another_when_that_one_is_gone() {
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
