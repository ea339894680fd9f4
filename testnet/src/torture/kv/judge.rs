//! What must hold of a history and of what stands in the end, knowing nothing of how anything is kept.
//!
//! A value that was acknowledged, or was seen, stays until a write takes its place that can have: one whose token was read with
//! the value, or one without a token, which takes the place of what its node holds at that moment. What was taken the place of
//! does not come back, neither in the end nor on a node that has known it. A dot names one value, and a value has one dot.
//!
//! A node that is set back may forget what nobody else has surely held. That is no breach, and is told as *excused*: it can only
//! happen where such a fault is in the history.

use std::collections::{BTreeMap, BTreeSet};

use p2p_api::Code;
use serde::{Deserialize, Serialize};

use super::history::{Call, History, Micros, Outcome, Over, Sibling, What};

/// Values of each key at all nodes, when all is over.
pub(super) type Last = BTreeMap<String, Vec<Sibling>>;

/// How a promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It was acknowledged or seen, nothing can have taken its place, and it does not stand in the end.
    Lost,
    /// Something has taken its place, and it is there again.
    Resurrected,
    /// One dot names two values.
    DotReused,
    /// One value has two dots.
    TwoDots,
    /// A node that has known it does not show it, and nothing can have taken its place.
    Forgotten,
    /// Nobody has put it there, or not yet.
    NeverWritten,
    /// Whoever put it there was refused.
    OfRefused,
    /// Nodes do not come to say the same.
    NotEqual,
    /// A node does not come back.
    NotBack,
    /// An answer that nothing of what was done to the nodes explains.
    Strange,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// How.
    pub kind: Kind,
    /// The key, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The value, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// In words.
    pub what: String,
}

/// An acknowledged write that was lost, as may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excused {
    /// Its key.
    pub key: String,
    /// The value that is gone, or is there again.
    pub value: String,
    /// Why that is no breach.
    pub why: String,
}

/// What the judge found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Acknowledged writes that were looked at.
    pub(super) writes: u64,
    /// Gets that were looked at.
    pub(super) reads: u64,
    pub(super) breaches: Vec<Breach>,
    pub(super) excused: Vec<Excused>,
}

/// Judges an epoch, of keys that nothing stood at before.
pub(super) fn judge(history: &History, last: &Last) -> Verdict {
    let lives = Lives::of(history);
    let mut verdict = Verdict::default();
    let mut of_key: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in &history.calls {
        of_key.entry(&call.key).or_default().push(call);
        match call.outcome {
            Outcome::Ok { .. } => verdict.writes += 1,
            Outcome::Seen(_) => verdict.reads += 1,
            Outcome::Refused { .. } | Outcome::Unknown { .. } => {}
        }
    }
    for key in last.keys() {
        of_key.entry(key).or_default();
    }
    for (key, mut calls) in of_key {
        calls.sort_by_key(|call| call.ended);
        let standing = last.get(key).map_or(&[][..], Vec::as_slice);
        let mut judge = OfKey::new(key, &calls, standing, &lives);
        judge.strangers();
        judge.losses();
        judge.forgotten();
        judge.resurrections();
        verdict.breaches.append(&mut judge.breaches);
        verdict.excused.append(&mut judge.excused);
    }
    verdict.breaches.extend(dots(history, last));
    verdict.breaches.extend(history.calls.iter().filter_map(strange));
    // The gravest first: it is the one whose history is told.
    verdict.breaches.sort_by_key(|breach| breach.kind);
    verdict
}

/// An answer that nothing of what was done to the nodes explains.
fn strange(call: &Call) -> Option<Breach> {
    let is_explained = match &call.outcome {
        Outcome::Ok { .. } | Outcome::Seen(_) => true,
        // Down, joining, several values stand, one stands, being built again.
        Outcome::Refused { code, .. } => {
            matches!(code, Code::Unreachable | Code::NotReady | Code::Conflict | Code::Exists | Code::Busy)
        }
        Outcome::Unknown { code, .. } => matches!(code, Code::Unreachable | Code::NotReady | Code::TimedOut),
    };
    let value = call.value().map(str::to_owned);
    let breach = || Breach { kind: Kind::Strange, key: Some(call.key.clone()), value, what: call.text() };
    (!is_explained).then(breach)
}

/// Dots that name two values, and values that have two.
fn dots(history: &History, last: &Last) -> Vec<Breach> {
    let of_calls = history.calls.iter().filter_map(|call| match &call.outcome {
        Outcome::Seen(siblings) => Some((call.key.as_str(), siblings.as_slice())),
        Outcome::Ok { .. } | Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    });
    let of_last = last.iter().map(|(key, siblings)| (key.as_str(), siblings.as_slice()));
    let mut named: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut names: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut breaches = Vec::new();
    for (key, siblings) in of_calls.chain(of_last) {
        for Sibling { value, dot } in siblings {
            let breach = |kind, what| Breach { kind, key: Some(key.to_owned()), value: Some(value.clone()), what };
            let other = *named.entry(dot).or_insert((key, value));
            if other != (key, value) {
                let what = format!("{dot} names {value} at {key}, and {} at {}", other.1, other.0);
                breaches.push(breach(Kind::DotReused, what));
            }
            let other = *names.entry((key, value)).or_insert(dot);
            if other != dot {
                breaches.push(breach(Kind::TwoDots, format!("{value} at {key} is {dot}, and {other}")));
            }
        }
    }
    breaches
}

/// When nodes were set back.
struct Lives {
    /// Of each node, in order.
    resets: Vec<Vec<(Micros, Micros)>>,
    /// When all nodes were equal, and in which of its lives each was then.
    equals: Vec<(Micros, Micros, Vec<Option<usize>>)>,
}

impl Lives {
    fn of(history: &History) -> Self {
        let mut resets = vec![Vec::new(); history.nodes as usize];
        for fault in history.faults.iter().filter(|fault| fault.kind.is_reset()) {
            if let Some(of_node) = resets.get_mut(fault.node as usize) {
                of_node.push((fault.began, fault.ended));
            }
        }
        resets.iter_mut().for_each(|of_node| of_node.sort_unstable());
        let mut lives = Self { resets, equals: Vec::new() };
        let nodes = |began, ended| (0..history.nodes).map(|node| lives.at(node, began, ended)).collect();
        lives.equals =
            history.equals.iter().map(|equal| (equal.began, equal.ended, nodes(equal.began, equal.ended))).collect();
        lives
    }

    fn resets(&self, node: u32) -> &[(Micros, Micros)] {
        self.resets.get(node as usize).map_or(&[], Vec::as_slice)
    }

    /// The life of a node that all of this time lies in; None where it may have been set back meanwhile.
    fn at(&self, node: u32, began: Micros, ended: Micros) -> Option<usize> {
        let resets = self.resets(node);
        let before = resets.iter().take_while(|reset| reset.1 < began).count();
        resets.get(before).is_none_or(|next| next.0 > ended).then_some(before)
    }

    /// Until when a node surely holds what it was given or has shown in a call that began then.
    fn holds_until(&self, node: u32, began: Micros) -> Micros {
        self.resets(node).iter().find(|reset| reset.1 >= began).map_or(Micros::MAX, |reset| reset.0)
    }

    /// Whether at every moment since then somebody surely held it.
    fn is_safe(&self, mut held: Vec<(Micros, Micros)>) -> bool {
        let Some(first) = held.iter().map(|(from, _)| *from).min() else { return false };
        // When all were equal, what anybody held was with everybody.
        for (began, _, nodes) in self.equals.iter().filter(|equal| equal.0 >= first) {
            let all = (0..nodes.len() as u32).map(|node| (*began, self.holds_until(node, *began)));
            held.extend(all.filter(|(from, until)| until > from));
        }
        held.sort_unstable();
        let mut reach = first;
        for (from, until) in held {
            if from <= reach {
                reach = reach.max(until);
            }
        }
        reach == Micros::MAX
    }
}

/// A node in one of its lives.
type Life = (u32, usize);

/// All about one key.
struct OfKey<'a> {
    key: &'a str,
    calls: &'a [&'a Call],
    standing: &'a [Sibling],
    lives: &'a Lives,
    /// Which call puts a value.
    put: BTreeMap<&'a str, &'a Call>,
    /// Which gets have seen a value.
    seen: BTreeMap<&'a str, Vec<&'a Call>>,
    /// When something may first have taken the place of a value.
    covered_from: BTreeMap<&'a str, Micros>,
    /// Since when a value was surely known to a node.
    known: BTreeMap<Life, BTreeMap<&'a str, Micros>>,
    breaches: Vec<Breach>,
    excused: Vec<Excused>,
    told: BTreeSet<&'a str>,
}

impl<'a> OfKey<'a> {
    fn new(key: &'a str, calls: &'a [&'a Call], standing: &'a [Sibling], lives: &'a Lives) -> Self {
        let put: BTreeMap<&str, &Call> =
            calls.iter().filter_map(|call| call.value().map(|value| (value, *call))).collect();
        let mut seen: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
        for call in calls {
            if let Outcome::Seen(siblings) = &call.outcome {
                siblings.iter().for_each(|sibling| seen.entry(&sibling.value).or_default().push(call));
            }
        }
        let covered_from = put.iter().map(|(value, call)| (*value, covered_from(value, call, calls))).collect();
        let (known, told) = (BTreeMap::new(), BTreeSet::new());
        let (breaches, excused) = (Vec::new(), Vec::new());
        let mut of_key = Self { key, calls, standing, lives, put, seen, covered_from, known, breaches, excused, told };
        of_key.known = of_key.known();
        of_key
    }

    /// Since when nodes have known values: by what they acknowledged, by what they showed, by being equal.
    fn known(&self) -> BTreeMap<Life, BTreeMap<&'a str, Micros>> {
        let mut known: BTreeMap<Life, BTreeMap<&str, Micros>> = BTreeMap::new();
        let mut learn = |life: Life, value: &'a str, at: Micros| {
            let since = known.entry(life).or_default().entry(value).or_insert(at);
            *since = at.min(*since);
        };
        for (value, call) in self.owed() {
            let acknowledged = matches!(call.outcome, Outcome::Ok { .. }).then_some(call);
            let told_by: Vec<&Call> = acknowledged.into_iter().chain(self.seen_by(value)).collect();
            for call in &told_by {
                if let Some(life) = self.lives.at(call.node, call.began, call.ended) {
                    learn((call.node, life), value, call.ended);
                }
            }
            let Some(first) = told_by.iter().map(|call| call.ended).min() else { continue };
            let mut equals = self.lives.equals.iter().filter(|equal| first < equal.0).peekable();
            if equals.peek().is_none() || !self.is_safe(call) {
                continue;
            }
            for (_, ended, nodes) in equals {
                for (node, life) in nodes.iter().enumerate() {
                    life.iter().for_each(|life| learn((node as u32, *life), value, *ended));
                }
            }
        }
        known
    }

    /// Values that must not be lost: acknowledged ones, and those that somebody has seen.
    fn owed(&self) -> Vec<(&'a str, &'a Call)> {
        let is_owed = |value: &str, call: &Call| match call.outcome {
            Outcome::Ok { .. } => true,
            Outcome::Unknown { .. } => self.seen.contains_key(value),
            Outcome::Refused { .. } | Outcome::Seen(_) => false,
        };
        self.put.iter().filter(|(value, call)| is_owed(value, call)).map(|(value, call)| (*value, *call)).collect()
    }

    fn seen_by(&self, value: &str) -> impl Iterator<Item = &'a Call> {
        self.seen.get(value).into_iter().flatten().copied()
    }

    /// Whether what a call has done, or seen, cannot have been forgotten by all who knew it.
    fn is_safe(&self, call: &Call) -> bool {
        let hold = |call: &Call| (call.ended, self.lives.holds_until(call.node, call.began));
        let mut held = Vec::new();
        match call.outcome {
            Outcome::Ok { on } => {
                held.push(hold(call));
                // Who else has it is not said: at worst those who were set back first.
                let others = (0..self.lives.resets.len() as u32).filter(|node| *node != call.node);
                let mut until: Vec<Micros> = others.map(|node| self.lives.holds_until(node, call.began)).collect();
                until.sort_unstable();
                if on > 1 {
                    held.push((call.ended, until.get(on as usize - 2).copied().unwrap_or(Micros::MAX)));
                }
            }
            Outcome::Seen(_) => held.push(hold(call)),
            Outcome::Refused { .. } | Outcome::Unknown { .. } => {}
        }
        held.extend(call.value().into_iter().flat_map(|value| self.seen_by(value)).map(hold));
        self.lives.is_safe(held)
    }

    /// Values that nobody can have put there.
    fn strangers(&mut self) {
        let mut found = Vec::new();
        let of_calls =
            self.seen.iter().flat_map(|(value, calls)| calls.iter().map(|call| (*value, call.ended, call.node)));
        let of_calls = of_calls.map(|(value, ended, node)| (value, ended, format!("seen at node {node}")));
        let of_last = self.standing.iter().map(|sibling| (&sibling.value[..], Micros::MAX, "standing".to_owned()));
        for (value, ended, how) in of_calls.chain(of_last) {
            let wrong = match self.put.get(value) {
                None => Some((Kind::NeverWritten, "and nobody has put it there")),
                Some(call) if matches!(call.outcome, Outcome::Refused { .. }) => {
                    Some((Kind::OfRefused, "and whoever put it there was refused"))
                }
                Some(call) if call.began > ended => Some((Kind::NeverWritten, "before it was put there")),
                Some(_) => None,
            };
            found.extend(wrong.map(|(kind, why)| (kind, value, format!("{value} is {how}, {why}"))));
        }
        found.into_iter().for_each(|(kind, value, what)| self.breach(kind, value, what));
    }

    /// Values that nothing can have taken the place of must stand.
    fn losses(&mut self) {
        for (value, call) in self.owed() {
            let stands = self.standing.iter().any(|sibling| sibling.value == value);
            if stands || self.covered_from.get(value).is_some_and(|from| *from < Micros::MAX) {
                continue;
            }
            let how = if matches!(call.outcome, Outcome::Ok { .. }) { "acknowledged" } else { "seen" };
            if self.is_safe(call) {
                let what =
                    format!("{value} was {how}, nothing can have taken its place, and it does not stand in the end");
                self.breach(Kind::Lost, value, what);
            } else {
                self.excuse(value, call, &format!("{how} and lost"));
            }
        }
    }

    /// A node shows what it knows, unless something can have taken its place by then.
    fn forgotten(&mut self) {
        let mut found = Vec::new();
        for call in self.calls.iter().filter(|call| shows(call).is_some()) {
            for (value, since) in self.hidden_by(call) {
                if self.covered_from.get(value).is_none_or(|from| *from >= call.ended) {
                    let what = format!(
                        "node {} has known {value} since {:.6}, does not hold it at {:.6}, and nothing can have taken its place",
                        call.node,
                        since as f64 / 1e6,
                        call.ended as f64 / 1e6
                    );
                    found.push((value, what));
                }
            }
        }
        found.into_iter().for_each(|(value, what)| self.breach(Kind::Forgotten, value, what));
    }

    /// What its node has known before a call, that does not stand there by it; since when.
    fn hidden_by(&self, call: &Call) -> Vec<(&'a str, Micros)> {
        let shown = shows(call).unwrap_or_default();
        let life = self.lives.at(call.node, call.began, call.ended);
        let known = life.and_then(|life| self.known.get(&(call.node, life)));
        let before = known.into_iter().flatten().filter(|(_, since)| **since < call.began);
        let hidden = before.filter(|(value, _)| !shown.iter().any(|sibling| sibling.value == **value));
        hidden.map(|(value, since)| (*value, *since)).collect()
    }

    /// What was taken the place of is not there again.
    fn resurrections(&mut self) {
        // By value: in which life of a node since when it cannot be seen, and by which call.
        let mut gone: BTreeMap<&str, BTreeMap<Life, (Micros, &Call)>> = BTreeMap::new();
        let mut gone_everywhere: BTreeSet<&str> = BTreeSet::new();
        let mut again = Vec::new();
        // In the order in which they ended: of several that say the same the first counts.
        for call in self.calls {
            let values = self.surely_covered(call);
            if values.is_empty() {
                continue;
            }
            let is_safe = self.is_safe(call);
            let own = self.lives.at(call.node, call.began, call.ended).map(|life| (call.node, life));
            for value in values {
                if self.standing.iter().any(|sibling| sibling.value == value) {
                    again.push((value, *call, is_safe));
                }
                let gone = gone.entry(value).or_default();
                if let Some(life) = own {
                    gone.entry(life).or_insert((call.ended, call));
                }
                let has_spread = is_safe && self.lives.equals.iter().any(|equal| call.ended < equal.0);
                if !has_spread || !gone_everywhere.insert(value) {
                    continue;
                }
                for (_, ended, nodes) in self.lives.equals.iter().filter(|equal| call.ended < equal.0) {
                    for (node, life) in nodes.iter().enumerate() {
                        life.iter().for_each(|life| {
                            gone.entry((node as u32, *life)).or_insert((*ended, call));
                        });
                    }
                }
            }
        }
        let mut seen = Vec::new();
        for (value, gone) in &gone {
            for read in self.seen_by(value) {
                let life = self.lives.at(read.node, read.began, read.ended);
                let by = life.and_then(|life| gone.get(&(read.node, life))).filter(|(since, _)| *since < read.began);
                seen.extend(by.map(|(_, by)| (*value, format!("seen at node {} by {}", read.node, read.text()), *by)));
            }
        }
        for (value, how, by) in seen {
            self.breach(
                Kind::Resurrected,
                value,
                format!("{value} is {how}, after its place was taken by {}", by.text()),
            );
        }
        // One call that nobody can have forgotten is enough.
        again.sort_by_key(|(value, call, is_safe)| (*value, !is_safe, call.began));
        for (value, by, is_safe) in again {
            if is_safe {
                let what = format!("{value} stands in the end, after its place was taken by {}", by.text());
                self.breach(Kind::Resurrected, value, what);
            } else {
                self.excuse(value, by, "its place was taken, and it stands again");
            }
        }
    }

    /// Values that a call surely took the place of, or found to have been taken the place of.
    fn surely_covered(&self, call: &'a Call) -> Vec<&'a str> {
        match (&call.outcome, call.over()) {
            (Outcome::Ok { .. }, Some(Over::Read(values))) => values.iter().map(String::as_str).collect(),
            (Outcome::Ok { .. }, Some(Over::Held | Over::AllHeld | Over::Create)) | (Outcome::Seen(_), None) => {
                self.hidden_by(call).into_iter().map(|(value, _)| value).collect()
            }
            _ => Vec::new(),
        }
    }

    fn breach(&mut self, kind: Kind, value: &'a str, what: String) {
        // The same value may be missed, or seen, many times.
        if self.told.insert(value) {
            let (key, value) = (Some(self.key.to_owned()), Some(value.to_owned()));
            self.breaches.push(Breach { kind, key, value, what });
        }
    }

    fn excuse(&mut self, value: &'a str, call: &Call, what: &str) {
        if self.told.insert(value) {
            let why = format!("{what}: node {} was set back before another was seen to know of it", call.node);
            self.excused.push(Excused { key: self.key.to_owned(), value: value.to_owned(), why });
        }
    }
}

/// What is all that stands at a node at some moment of a call, as far as the call says.
fn shows(call: &Call) -> Option<&[Sibling]> {
    match (&call.what, &call.outcome) {
        (What::Get, Outcome::Seen(siblings)) => Some(siblings),
        (What::Put { over: Over::Create, .. }, Outcome::Ok { .. }) => Some(&[]),
        _ => None,
    }
}

/// When something may first have taken the place of a value: never is the end of time.
fn covered_from(value: &str, put: &Call, calls: &[&Call]) -> Micros {
    let covers = |call: &&&Call| {
        let has_effect = matches!(call.outcome, Outcome::Ok { .. } | Outcome::Unknown { .. });
        has_effect
            && call.value() != Some(value)
            && match call.over() {
                Some(Over::Read(values)) => values.iter().any(|read| read == value),
                Some(Over::Held | Over::AllHeld) => call.until() >= put.began,
                Some(Over::Beside | Over::Create) | None => false,
            }
    };
    calls.iter().filter(covers).map(|call| call.began).min().unwrap_or(Micros::MAX)
}

#[cfg(test)]
mod tests;
