//! What a machine shows of itself: to whoever runs it, to people, and to whoever judges it. Nothing changes by looking.

use std::sync::Arc;
use std::time::Duration;

use super::fact::Fact;
use super::members::Members;
use super::name::{Directory, Keys, Member};
use super::record::{Record, Status};
use super::time::Time;
use super::{Machine, State, overlay};

/// For so long a member of whom nothing is kept may still be named by what is: words, questions and doubts of others, none of
/// which lasts as long as this.
pub const HANDLE_TIME: Duration = Duration::from_secs(60);

/// What was dropped or refused, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Facts and accusations whose signatures are wrong.
    pub forged: u64,
    /// Accusations of members that have no business with their subject.
    pub unfit: u64,
    /// Facts that were answered with newer ones.
    pub stale: u64,
    /// Frames that came before the sender had said who it is.
    pub unmet: u64,
    /// Members that had to wait for a connection, because there were too many.
    pub postponed: u64,
    /// Facts about members that are not known, because there are too many.
    pub full: u64,
    /// Doubts that were dropped, because there were too many.
    pub doubts_dropped: u64,
}

/// How much a machine keeps beside the members themselves; each has a bound of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Connections, and wishes for some.
    pub links: usize,
    /// Members of which something is said.
    pub cases: usize,
    /// Questions for others that are under way.
    pub inquiries: usize,
    /// Members that somebody takes for down, and questions about them that were passed on.
    pub doubts: usize,
    /// Facts that wait to be passed on.
    pub news: usize,
}

impl<K: Keys> Machine<K> {
    /// When [`Input::Wake`] is wanted, at the latest.
    pub fn deadline(&self) -> Time {
        self.deadline
    }

    /// The newest fact about everybody.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// What a member is, as far as this node knows; None of whom it knows nothing.
    pub fn state(&self, member: Member) -> Option<State> {
        let fact = self.members.get(member)?;
        Some(match &**fact {
            Fact::Down(_) => State::Down,
            Fact::Said(record) if record.claims().status == Status::Left => State::Left,
            Fact::Said(_) if member == self.me => State::Alive,
            // Whoever is cut off shows those as down that it does not hear, for itself only.
            Fact::Said(_) if self.health.is_isolated() => match self.is_met(member) {
                true => State::Alive,
                false => State::Down,
            },
            Fact::Said(_) => match self.suspicion_of(member) {
                true => State::Suspect,
                false => State::Alive,
            },
        })
    }

    fn is_met(&self, member: Member) -> bool {
        self.links.get(member).is_some_and(|link| link.is_met() && link.missing.is_none())
    }

    /// All that this node has to say of a member, for people.
    pub fn explain(&self, member: Member) -> String {
        let words = self.case(member).map(|case| case.words.iter().map(|word| &word.accusation).collect::<Vec<_>>());
        let (fact, state) = (self.members.get(member), self.state(member));
        let neighbours = &self.neighbours;
        let (link, may) = (self.links.get(member), self.health.may_accuse());
        let own = (self.own.record(), self.own.is_put_out(), self.own.is_leaving());
        format!(
            "own {own:?}, {state:?} {fact:?}, link {link:?}, said {words:?}, may accuse {may}, neighbours {neighbours:?}"
        )
    }

    /// How long a member's answers take, as of late; None where none has come.
    pub fn answer_time(&self, member: Member) -> Option<Duration> {
        self.links.get(member).map(|link| link.answer_times.mean()).filter(|mean| !mean.is_zero())
    }

    /// Whether anything is kept of a member. Of whom nothing is, the handle may be taken back after [`HANDLE_TIME`].
    pub fn holds(&self, member: Member) -> bool {
        member == self.me
            || self.members.get(member).is_some()
            || self.links.get(member).is_some()
            || self.case(member).is_some()
            || self.join.contacts().contains(&member)
    }

    /// This node's own record.
    pub fn record(&self) -> &Arc<Record> {
        self.own.record()
    }

    /// Whether this node takes itself for cut off from all others.
    pub fn is_isolated(&self) -> bool {
        self.health.is_isolated()
    }

    /// Whether others have found this node unreliable, so that it stays away for a while.
    pub fn is_put_out(&self) -> bool {
        self.own.is_put_out()
    }

    /// Whether this node is no part of the cluster any more.
    pub fn has_stopped(&self) -> bool {
        self.own.has_stopped()
    }

    /// Members that this node watches because of where they stand.
    pub fn neighbours(&self) -> &[Member] {
        &self.neighbours
    }

    /// Whether a member stands so near another, in this node's view, that it may watch it.
    pub fn is_near(&self, directory: &Directory, watcher: Member, subject: Member) -> bool {
        overlay::may_watch(directory, &self.members, watcher, subject)
    }

    /// How many watch a member, in this node's view.
    pub fn watchers(&self, directory: &Directory, subject: Member) -> usize {
        overlay::neighbours(directory, &self.members, subject, |_| false).len()
    }

    /// Members it is connected to, each with whether it is watched.
    pub fn connections(&self) -> impl Iterator<Item = (Member, bool)> + '_ {
        self.links.iter().filter(|link| link.is_open()).map(|link| (link.member, link.is_watched()))
    }

    /// What was dropped or refused.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How much it keeps beside the members themselves.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            links: self.links.iter().count(),
            cases: self.cases.len(),
            inquiries: self.inquiries.len(),
            doubts: self.doubts.len(),
            news: self.news.len(),
        }
    }
}
