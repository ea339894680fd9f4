//! Connections to other members: why they are kept, and the exchanges on them that show that both ends live.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::config::Config;
use super::message::Message;
use super::name::Member;
use super::time::Time;

/// One connection, or the wish for one.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) member: Member,
    /// Whether this side starts the exchanges: the one with the smaller name.
    pub(super) first: bool,
    pub(super) state: State,
    /// It is to a neighbour.
    pub(super) ring: bool,
    /// This node let the other in, and nobody else may have met it.
    pub(super) guest: bool,
    /// Kept until then for something else.
    pub(super) brief_until: Time,
    /// This side has made the connection.
    pub(super) dialed: bool,
    /// The other's record has come on this connection.
    pub(super) met: bool,
    /// To be sent once it has.
    pub(super) errands: Vec<Message>,
    /// The generation in which it was last heard directly; 0 is none.
    pub(super) heard: u64,
    pub(super) heard_at: Time,
    /// The generation in which this node has reached it by a connection of its own making; 0 is none.
    pub(super) reached: u64,
    /// Where that was, by its record.
    pub(super) reached_at: Vec<Bytes>,
    /// The generation in which that was last tried for its own sake.
    pub(super) tried: u64,
    /// Dials in a row that came to nothing, and when the first of them was made.
    pub(super) failures: u32,
    pub(super) failing_since: Time,
    pub(super) answer_times: AnswerTimes,
    pub(super) waiting: Option<Waiting>,
    /// The first question that was not answered, waited for or not: its number, and when it was sent.
    pub(super) asked: Option<(u32, Time)>,
    /// When this side is to ask next, or by when it should have been asked.
    pub(super) next: Time,
    pub(super) missing: Option<Missing>,
    pub(super) lateness: Lateness,
    /// When an exchange last came to its end.
    pub(super) completed_at: Time,
    /// Whether this side's last question was answered in time.
    pub(super) answered: bool,
    pub(super) differs_since: Option<Time>,
    /// When the other's table was last equal to this node's.
    pub(super) agreed_at: Option<Time>,
    /// A dial was refused then, and nothing is said of it yet.
    pub(super) refused_at: Option<Time>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not there; dialed again then, if it is wanted.
    Closed(Time),
    Dialing,
    Open,
}

/// A question that was not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) number: u32,
    pub(super) sent: Time,
    pub(super) due: Time,
}

/// An answer was missed, and nothing has been heard since.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    /// When the answer was due.
    pub(super) since: Time,
    /// When helpers should have said something.
    pub(super) judge_at: Time,
    /// Helpers that were asked and said nothing yet.
    pub(super) asked: Vec<Member>,
    pub(super) suspected: bool,
}

impl Link {
    pub(super) fn new(member: Member, first: bool) -> Self {
        Self {
            member,
            first,
            state: State::Closed(Time::default()),
            ring: false,
            guest: false,
            brief_until: Time::default(),
            dialed: false,
            met: false,
            errands: Vec::new(),
            heard: 0,
            heard_at: Time::default(),
            reached: 0,
            reached_at: Vec::new(),
            tried: 0,
            failures: 0,
            failing_since: Time::NEVER,
            answer_times: AnswerTimes::default(),
            waiting: None,
            asked: None,
            next: Time::NEVER,
            missing: None,
            lateness: Lateness::default(),
            completed_at: Time::default(),
            answered: true,
            differs_since: None,
            agreed_at: None,
            refused_at: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Whether frames may be sent that mean something only to who knows this node.
    pub(super) fn is_met(&self) -> bool {
        self.is_open() && self.met
    }

    /// Whether this node watches the other.
    pub(super) fn is_watched(&self) -> bool {
        self.ring || self.guest
    }

    pub(super) fn is_wanted(&self, now: Time) -> bool {
        self.is_watched() || self.brief_until > now
    }

    /// When something is to be done about it.
    pub(super) fn due(&self) -> Time {
        let watched = match self.state {
            State::Closed(retry_at) if self.is_watched() => retry_at,
            State::Closed(_) | State::Dialing => Time::NEVER,
            State::Open => self.waiting.map_or(self.next, |waiting| waiting.due),
        };
        let judged = self.missing.as_ref().map_or(Time::NEVER, |missing| missing.judge_at);
        let is_kept = self.is_watched() || self.state == State::Dialing;
        let ended = if is_kept { Time::NEVER } else { self.brief_until };
        watched.min(judged).min(ended)
    }

    /// Whether an answer is late at this moment, on either side as far as that is known: whoever asks says soon that it was
    /// answered again.
    pub(super) fn is_late(&self, now: Time, late_after: Duration, config: &Config) -> bool {
        let is_asked = self.asked.is_some_and(|(_, sent)| now.since(sent) > late_after);
        let is_told = !self.first && self.lateness.is_late_since(now.before(config.period * 3 / 10));
        self.missing.is_some() || is_asked || is_told
    }

    /// When the next exchange is to begin after one that has come to its end: soon where many were late of late.
    pub(super) fn pause(&self, config: &Config) -> Duration {
        if self.lateness.count() >= 2 { config.period / 4 } else { config.period }
    }

    /// The connection is gone, and with it what was under way on it.
    pub(super) fn closed(&mut self, retry_at: Time) {
        self.state = State::Closed(retry_at);
        self.met = false;
        self.errands.clear();
        self.waiting = None;
        self.asked = None;
        self.next = Time::NEVER;
        self.differs_since = None;
    }
}

/// Which of the last eight exchanges took longer than they should, the last in front.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lateness {
    bits: u8,
    noted_at: Time,
}

impl Lateness {
    /// From now on.
    pub(super) fn anew(now: Time) -> Self {
        Self { bits: 0, noted_at: now }
    }

    /// How many were late.
    pub(super) fn count(self) -> u32 {
        self.bits.count_ones()
    }

    /// Whether the last was late, and no other came to its end since then.
    fn is_late_since(self, then: Time) -> bool {
        self.bits & 1 == 1 && self.noted_at <= then
    }

    /// An exchange came to its end, or the other side has said how its own did. One that is late is told of by several
    /// questions, and counts once in half a period.
    pub(super) fn note(&mut self, now: Time, late: bool, period: Duration) {
        if late && now.since(self.noted_at) < period / 2 {
            return;
        }
        (self.bits, self.noted_at) = (self.bits << 1 | u8::from(late), now);
    }

    /// None has come to its end for longer than they should take, with the period that passes from each to the next: counts
    /// once a period.
    pub(super) fn note_silence(&mut self, now: Time, completed_at: Time, period: Duration) {
        if now.since(completed_at) > period * 3 / 2 && now.since(self.noted_at) >= period {
            self.note(now, true, period);
        }
    }
}

/// How long answers take: mean and deviation, as TCP has them (RFC 6298).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AnswerTimes {
    mean: Duration,
    deviation: Duration,
}

impl AnswerTimes {
    pub(super) fn mean(&self) -> Duration {
        self.mean
    }

    pub(super) fn add(&mut self, took: Duration) {
        if self.mean.is_zero() {
            (self.mean, self.deviation) = (took, took / 2);
            return;
        }
        self.deviation = self.deviation * 3 / 4 + self.mean.abs_diff(took) / 4;
        self.mean = self.mean * 7 / 8 + took / 8;
    }

    /// What hardly any takes longer than.
    pub(super) fn most(&self) -> Duration {
        self.mean + 4 * self.deviation
    }

    /// How long to wait for one.
    pub(super) fn limit(&self, config: &Config) -> Duration {
        self.most().clamp(config.answer_min, config.answer_max)
    }
}

/// Members that were neighbours of late, of which it is remembered where they were reached.
const FORMER_MAX: usize = 64;

/// All of a node's connections, few enough to be looked through.
#[derive(Default)]
pub(super) struct Links {
    kept: Vec<Link>,
    /// The latest last.
    former: VecDeque<Former>,
}

/// What is remembered of a member when its link is not kept any more.
struct Former {
    member: Member,
    heard: u64,
    reached: u64,
    reached_at: Vec<Bytes>,
}

impl Links {
    pub(super) fn get(&self, member: Member) -> Option<&Link> {
        self.index(member).ok().map(|index| &self.kept[index])
    }

    pub(super) fn get_mut(&mut self, member: Member) -> Option<&mut Link> {
        self.index(member).ok().map(|index| &mut self.kept[index])
    }

    pub(super) fn get_or_insert(&mut self, member: Member, first: bool) -> &mut Link {
        let index = match self.index(member) {
            Ok(index) => index,
            Err(index) => {
                let mut link = Link::new(member, first);
                if let Some(at) = self.former.iter().position(|former| former.member == member)
                    && let Some(Former { heard, reached, reached_at, .. }) = self.former.remove(at)
                {
                    (link.heard, link.reached, link.reached_at) = (heard, reached, reached_at);
                }
                self.kept.insert(index, link);
                index
            }
        };
        &mut self.kept[index]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.kept.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.kept.iter_mut()
    }

    /// Drops links that are closed and not wanted; of neighbours it is remembered where they were reached.
    pub(super) fn drop_unwanted(&mut self, now: Time) {
        for link in self.kept.extract_if(.., |link| link.is_closed() && !link.is_wanted(now)) {
            if link.reached > 0 {
                let Link { member, heard, reached, reached_at, .. } = link;
                self.former.push_back(Former { member, heard, reached, reached_at });
            }
        }
        let beyond = self.former.len().saturating_sub(FORMER_MAX);
        self.former.drain(..beyond);
    }

    /// Nothing is known of a member any more.
    pub(super) fn forget(&mut self, member: Member) {
        self.kept.retain(|link| link.member != member);
        self.former.retain(|former| former.member != member);
    }

    /// Those on which frames are read at the other end.
    pub(super) fn met(&self) -> impl Iterator<Item = Member> {
        self.kept.iter().filter(|link| link.is_met()).map(|link| link.member)
    }

    fn index(&self, member: Member) -> Result<usize, usize> {
        self.kept.binary_search_by_key(&member, |link| link.member)
    }
}
