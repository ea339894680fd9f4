//! Finding out what was missed, and fetching it: one peer at a time, one question at a time.
//!
//! Peers tell each other what their vectors come to. Where that differs for longer than writes are on their way, this side asks:
//! first key by key, and if the other has dropped what would have to be told, by comparing all. Whoever is asked keeps nothing in
//! mind. A question carries the life of the asker that asks it, and a number: what answers another is not looked at.
//!
//! | step | sent | answered by |
//! |---|---|---|
//! | keys | [`Body::Keys`] | [`Said::Differs`]: the same with more buckets; [`Said::Keys`]: again, until nothing is missing; [`Said::Opened`]: compare, because it cannot be told key by key |
//! | compare | [`Body::Open`], where nothing was asked key by key; then [`Body::Look`] until nothing is left to look at, then [`Body::Close`] where the last answer did not say the end, too | [`Said::Opened`], [`Said::Looked`], [`Said::Closed`]; [`Said::Over`]: from the beginning |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::delta::{Answer, Asked, Budget, Told};
use super::dot::Actor;
use super::replica::{Digest, Replica, Trouble};
use super::session::{Adopted, Closed, Looked, Opened, Wanted, is_much};
use super::store::KvTx;
use super::vector::Vector;
use crate::reconcile::{Differences, Divided};
use crate::swim::{Name, Time};

/// Vectors that differ for so long are a reason to ask: writes are faster.
pub const DIFFER_TIME: Duration = Duration::from_secs(1);

/// Longest wait for an answer.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// A peer that has not answered, or not so that anything came of it, is not asked again for so long.
pub const FAILED_TIME: Duration = Duration::from_secs(5);

/// A peer of which little was missing, or nothing, is left alone for so long, and twice as long each time until it is much:
/// while all write, no two copies come to the same, and what is missing is on its way.
pub const FOUND_LITTLE_REST: Duration = Duration::from_secs(1);

/// And no longer than this.
pub const FOUND_LITTLE_REST_MAX: Duration = Duration::from_secs(8);

/// A comparison that drops much waits so long for somebody else to say the same.
pub const CONFIRM_TIME: Duration = Duration::from_secs(60);

/// After so long what somebody said confirms nothing any more.
pub const CONFIRMED_TIME_MAX: Duration = Duration::from_secs(600);

/// Longest comparison, however it goes on: nothing that the other has seen is taken in meanwhile.
pub const COMPARED_TIME_MAX: Duration = Duration::from_secs(3600);

/// Equal vectors with different rows for so long are mended: until then whoever finds something lost is built again.
pub const MEND_TIME: Duration = Duration::from_secs(10);

/// Who has just been mended with is not compared with again for the same reason for so long.
pub const MENDED_REST: Duration = Duration::from_secs(600);

/// A vector of so few numbers is told whole, unasked: that saves round trips in most clusters.
const SHORT_MAX: usize = 64;

/// Times that more buckets are told because they differ, too, until all are.
const DIFFERS_MAX: u32 = 3;

/// Times that a comparison is begun anew before the peer is left alone for a while.
const BEGUN_MAX: u32 = 3;

/// What is told at once.
pub const BUDGET: Budget = Budget { keys: 512, bytes: 1 << 20 };

/// Ranges that are looked at with one question.
pub(super) const LOOKED_AT_ONCE: usize = 256;

/// Ranges that one comparison may have before it, whatever the other side says.
pub const RANGES_MAX: usize = 1 << 18;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which life of the asker wants to know.
    pub to: Actor,
    /// Its number.
    pub number: u64,
    /// What is asked.
    pub body: Body,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// What is missing here.
    Keys(Asked),
    /// To compare all.
    Open,
    /// Where to look closer.
    Look {
        /// Ranges that differ.
        divided: Vec<Divided>,
        /// Ranges whose rows are wanted.
        wanted: Vec<Wanted>,
        /// How it ends, if this was the last.
        end_of: Option<Begun>,
    },
    /// How it ends.
    Close(Begun),
}

/// How a comparison has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Which life of the other answers.
    pub by: Actor,
    /// What that had seen then.
    pub opened: Vector,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Whose question it answers.
    pub to: Actor,
    /// Which one.
    pub number: u64,
    /// What is answered.
    pub said: Said,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// See [`Answer::Differs`].
    Differs(BTreeSet<u8>),
    /// See [`Answer::Keys`].
    Keys {
        /// Keys of which something is missing; none: nothing is.
        keys: Vec<Told>,
        /// What the other has seen, in the buckets that were told.
        part: Vector,
    },
    /// The beginning of a comparison, also where keys were asked for: see [`Answer::TooOld`].
    Opened(Opened),
    /// What was found, and the end if there is nothing more to look at.
    Looked(Looked, Option<Closed>),
    /// The end.
    Closed(Closed),
    /// There is no such comparison any more.
    Over,
}

/// What came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Nothing that this peer has seen is missing here any more.
    CaughtUp(Name),
    /// Its copy has come to be equal to this one.
    Equal(Name),
    /// Asking it came to nothing: it was silent, or what it said made no sense.
    Failed(Name),
    /// It has told more than is kept until all of it can be taken in.
    TooMuch(Name),
    /// It would drop so many keys of so many that somebody else is asked first.
    Unconfirmed {
        /// Who has told it so.
        with: Name,
        /// Keys that would be dropped.
        dropped: u64,
        /// Keys that there are.
        held: u64,
    },
    /// Equal vectors, different rows: one of the two has lost something without noticing.
    Integrity(Name),
    /// That was still so after a while, and what stands there stands here, too.
    Mended {
        /// Who has told it.
        with: Name,
        /// Keys that have changed by it.
        keys: u64,
    },
}

/// What is known of a peer.
#[derive(Clone, Debug, Default)]
struct Peer {
    digest: Option<Digest>,
    /// Whether that was equal to ours when it came.
    is_equal: bool,
    /// Since when it differs, as far as that decides when it is asked.
    differs: Option<Time>,
    /// When it was first told that it does.
    differed_at: Option<Time>,
    /// Since when its rows differ though it has seen the same.
    unequal: Option<Time>,
    /// Before that is no reason to compare all with it.
    mended_until: Time,
    /// Nothing is missing here of what it had seen when it came to this.
    checked: Option<Digest>,
    /// Not asked before.
    not_before: Time,
    /// For how long it was left alone when little of it was missing.
    rest: Duration,
}

/// What is under way.
#[derive(Clone, Debug)]
struct Asking {
    with: Name,
    /// Of this life.
    me: Actor,
    number: u64,
    /// Given up then.
    until: Time,
    /// And then at the latest.
    until_at_last: Time,
    begun: u32,
    /// Answers that told of something missing.
    found: u32,
    /// Keys that have no value any more by what was told key by key.
    dropped: u64,
    /// Whether it is about rows that differ though both have seen the same.
    mends: bool,
    step: Step,
}

#[derive(Clone, Debug)]
enum Step {
    Keys { asked: Vector, buckets: BTreeSet<u8>, differed: u32 },
    Opening,
    Looking { begun: Begun, asked: Look, left: Left },
    Closing { by: Actor },
}

/// What was asked last.
type Look = (Vec<Divided>, Vec<Wanted>);

/// What is still to be asked: what was found last is asked next, so that little is left at any time.
#[derive(Clone, Debug, Default)]
struct Left {
    divided: Vec<Divided>,
    wanted: Vec<Wanted>,
}

impl Left {
    fn len(&self) -> usize {
        self.divided.len() + self.wanted.len()
    }

    fn extend(&mut self, found: Differences) {
        self.divided.extend(found.divided);
        self.wanted.extend(found.few.into_iter().map(|range| Wanted { range, after: None }));
    }

    /// What is asked next; None if nothing is left.
    fn next(&mut self) -> Option<Look> {
        let divided = self.divided.split_off(self.divided.len().saturating_sub(LOOKED_AT_ONCE));
        let wanted = self.wanted.split_off(self.wanted.len().saturating_sub(LOOKED_AT_ONCE));
        (!divided.is_empty() || !wanted.is_empty()).then_some((divided, wanted))
    }
}

/// Asks one peer after the other for what is missing here.
pub struct AntiEntropy {
    peers: BTreeMap<Name, Peer>,
    asking: Option<Asking>,
    /// Who would have much dropped, and since when.
    unconfirmed: Option<(Name, Time)>,
    number: u64,
    rng: SmallRng,
    noted: Vec<Noted>,
}

/// A question for a peer.
pub type Sent = Option<(Name, Request)>;

impl AntiEntropy {
    /// Without peers.
    pub fn new(seed: u64) -> Self {
        Self {
            peers: BTreeMap::new(),
            asking: None,
            unconfirmed: None,
            number: 0,
            rng: SmallRng::seed_from_u64(seed),
            noted: Vec::new(),
        }
    }

    /// There is a connection to a peer. What differs at its beginning differs for long.
    pub fn up(&mut self, peer: Name) {
        self.peers.insert(peer, Peer { differs: Some(Time(0)), ..Peer::default() });
    }

    /// The connection is gone.
    ///
    /// # Errors
    /// When the store fails.
    pub fn down<T: KvTx>(&mut self, replica: &mut Replica, tx: &mut T, peer: Name) -> Result<(), Trouble<T::Error>> {
        self.peers.remove(&peer);
        match self.asking.take_if(|asking| asking.with == peer) {
            Some(_) => replica.abandon(tx),
            None => Ok(()),
        }
    }

    /// What a peer's copy comes to. Whether it holds all of ours: one that has seen the same, and holds something else, may have
    /// lost it.
    pub fn told(&mut self, replica: &Replica, peer: Name, theirs: Digest, now: Time) -> bool {
        let ours = replica.digest();
        let Some(known) = self.peers.get_mut(&peer) else { return false };
        known.digest = Some(theirs);
        let equal = ours.vector == theirs.vector;
        known.differs = if equal { None } else { Some(known.differs.unwrap_or(now)) };
        known.differed_at = if equal { None } else { Some(known.differed_at.unwrap_or(now)) };
        let was_equal = std::mem::replace(&mut known.is_equal, ours == theirs);
        if ours == theirs {
            known.unequal = None;
            if !was_equal {
                self.noted.push(Noted::Equal(peer));
            }
        } else if equal && known.unequal.is_none() {
            known.unequal = Some(now);
            self.noted.push(Noted::Integrity(peer));
        }
        ours == theirs
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Time {
        match &self.asking {
            Some(asking) => asking.until,
            None => self.peers.iter().filter_map(|(name, peer)| self.ask_at(*name, peer)).min().unwrap_or(Time::NEVER),
        }
    }

    /// Since when a peer's copy has been another of which it is not known that nothing of it is missing here; of all the earliest.
    pub fn differs_since(&self) -> Option<Time> {
        let differs = |peer: &Peer| peer.differed_at.filter(|_| peer.digest != peer.checked);
        self.peers.values().filter_map(differs).min()
    }

    /// When a peer is to be asked, if there is reason to.
    fn ask_at(&self, name: Name, peer: &Peer) -> Option<Time> {
        let at = match peer.differs {
            Some(since) if peer.digest.is_some() && peer.digest != peer.checked => since + DIFFER_TIME,
            Some(_) => return None,
            // As long as both have seen the same.
            None => peer.mended_until.max(peer.unequal? + MEND_TIME),
        };
        let at = at.max(peer.not_before);
        Some(match self.unconfirmed {
            Some((other, since)) if other == name => at.max(since + CONFIRM_TIME),
            _ => at,
        })
    }

    /// What has come to be known since this was asked last.
    pub fn take_noted(&mut self) -> Vec<Noted> {
        std::mem::take(&mut self.noted)
    }

    /// Gives up what takes too long, and asks whoever is to be asked.
    ///
    /// # Errors
    /// When the store fails.
    pub fn wake<T: KvTx>(&mut self, replica: &mut Replica, tx: &mut T, now: Time) -> Result<Sent, Trouble<T::Error>> {
        if self.asking.as_ref().is_some_and(|asking| asking.until <= now || asking.me != replica.me()) {
            self.fail(replica, tx, now)?;
        }
        if self.asking.is_some() {
            return Ok(None);
        }
        let due = self.peers.iter().filter(|(name, peer)| self.ask_at(**name, peer).is_some_and(|at| at <= now));
        let due: Vec<Name> = due.map(|(name, _)| *name).collect();
        let Some(with) = due.choose(&mut self.rng).copied() else { return Ok(None) };
        let (me, until, until_at_last) = (replica.me(), now, now + COMPARED_TIME_MAX);
        let mends = self.peers.get(&with).is_some_and(|peer| peer.differs.is_none());
        self.asking = Some(Asking {
            with,
            me,
            number: 0,
            until,
            until_at_last,
            begun: 0,
            found: 0,
            dropped: 0,
            mends,
            step: Step::Opening,
        });
        Ok(match mends {
            true => self.send(Body::Open, Step::Opening, now),
            false => self.ask_keys(replica, told_at_first(replica), 0, now),
        })
    }

    /// Gives up: the peer has its turn again later.
    fn fail<T: KvTx>(&mut self, replica: &mut Replica, tx: &mut T, now: Time) -> Result<(), Trouble<T::Error>> {
        let Some(asking) = self.asking.take() else { return Ok(()) };
        self.noted.push(Noted::Failed(asking.with));
        if let Some(peer) = self.peers.get_mut(&asking.with) {
            peer.not_before = now + FAILED_TIME;
        }
        replica.abandon(tx)
    }

    /// Gives up where more is staged than may be.
    ///
    /// # Errors
    /// When the store fails.
    pub fn bound<T: KvTx>(
        &mut self,
        replica: &mut Replica,
        tx: &mut T,
        staged_len_max: u64,
        now: Time,
    ) -> Result<(), Trouble<T::Error>> {
        if replica.staged_len() <= staged_len_max {
            return Ok(());
        }
        self.noted.extend(self.asking.as_ref().map(|asking| Noted::TooMuch(asking.with)));
        self.fail(replica, tx, now)
    }

    fn send(&mut self, body: Body, step: Step, now: Time) -> Sent {
        self.number += 1;
        let asking = self.asking.as_mut()?;
        let until = asking.until_at_last.min(now + ANSWER_TIME_MAX);
        (asking.number, asking.until, asking.step) = (self.number, until, step);
        Some((asking.with, Request { to: asking.me, number: self.number, body }))
    }

    fn ask_keys(&mut self, replica: &Replica, buckets: BTreeSet<u8>, differed: u32, now: Time) -> Sent {
        let body = Body::Keys(replica.ask(buckets.clone()));
        self.send(body, Step::Keys { asked: replica.vector().clone(), buckets, differed }, now)
    }

    /// There is no answer to a question, and will be none: another peer can be asked.
    ///
    /// # Errors
    /// When the store fails.
    pub fn unanswered<T: KvTx>(
        &mut self,
        replica: &mut Replica,
        tx: &mut T,
        peer: Name,
        number: u64,
        now: Time,
    ) -> Result<(), Trouble<T::Error>> {
        match self.asking.as_ref().is_some_and(|asking| asking.with == peer && asking.number == number) {
            true => self.fail(replica, tx, now),
            false => Ok(()),
        }
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// When the store fails.
    pub fn reply<T: KvTx>(
        &mut self,
        replica: &mut Replica,
        tx: &mut T,
        from: Name,
        reply: Reply,
        now: Time,
    ) -> Result<Sent, Trouble<T::Error>> {
        let is_awaited = |asking: &&mut Asking| {
            asking.with == from && asking.number == reply.number && asking.me == reply.to && replica.me() == reply.to
        };
        let Some(asking) = self.asking.as_mut().filter(is_awaited) else { return Ok(None) };
        let begun_before = asking.begun;
        let ended = match (std::mem::replace(&mut asking.step, Step::Opening), reply.said) {
            (Step::Keys { mut buckets, differed, .. }, Said::Differs(more)) if differed <= DIFFERS_MAX => {
                buckets.extend(more);
                if differed == DIFFERS_MAX {
                    buckets = (0..=u8::MAX).collect();
                }
                return Ok(self.ask_keys(replica, buckets, differed + 1, now));
            }
            (Step::Keys { .. }, Said::Keys { keys, .. }) if keys.is_empty() => {
                let is_much = asking.found > 1;
                self.caught_up(is_much, now);
                return Ok(None);
            }
            (Step::Keys { asked, buckets, .. }, Said::Keys { keys, part }) => {
                let mut theirs = asked.part(|bucket| !buckets.contains(&bucket));
                theirs.join(&part.part(|bucket| buckets.contains(&bucket)));
                let held = replica.len() + asking.dropped;
                asking.dropped += replica.would_drop_of(tx, &keys, &theirs)?;
                if is_much(asking.dropped, held) {
                    // That somebody else has to say the same first holds however it is told.
                    return Ok(self.send(Body::Open, Step::Opening, now));
                }
                asking.found += 1;
                let new = replica.merge(tx, &keys, &theirs)?;
                if replica.vector().covers(&theirs) {
                    let is_much = asking.found > 1;
                    self.caught_up(is_much, now);
                    return Ok(None);
                }
                // Whoever tells nothing new is not asked for more of it.
                if new > 0 || asked != *replica.vector() {
                    return Ok(self.ask_keys(replica, buckets, 0, now));
                }
                None
            }
            (Step::Keys { .. } | Step::Opening, Said::Opened(opened)) if opened.divided.len() <= LOOKED_AT_ONCE => {
                let mut left = Left::default();
                left.extend(replica.begin(tx, &opened)?);
                return Ok(self.look(Begun { by: opened.by, opened: opened.vector }, left, now));
            }
            (Step::Looking { begun, asked: (divided, wanted), mut left }, Said::Looked(looked, closed))
                if looked.answers(&divided, &wanted)
                    && left.len() + looked.divided.len() + looked.rows.len() <= RANGES_MAX =>
            {
                for rows in &looked.rows {
                    replica.stage(tx, rows)?;
                    left.wanted.extend(rows.rest.clone());
                }
                left.extend(replica.compare(tx, &looked.divided)?);
                let Some(closed) = closed.filter(|_| left.len() == 0) else {
                    return Ok(self.look(begun, left, now));
                };
                Some((begun.by, closed))
            }
            (Step::Closing { by }, Said::Closed(closed)) => Some((by, closed)),
            (Step::Opening | Step::Looking { .. } | Step::Closing { .. }, Said::Over) if begun_before < BEGUN_MAX => {
                replica.abandon(tx)?;
                self.asking.iter_mut().for_each(|asking| asking.begun += 1);
                return Ok(self.send(Body::Open, Step::Opening, now));
            }
            _ => None,
        };
        let is_done = match ended {
            Some((by, closed)) => self.end(replica, tx, (from, by), &closed, now)?,
            None => false,
        };
        if !is_done {
            self.fail(replica, tx, now)?;
        }
        Ok(None)
    }

    /// The end of a comparison; whether all of it was taken in.
    fn end<T: KvTx>(
        &mut self,
        replica: &mut Replica,
        tx: &mut T,
        who: (Name, Actor),
        closed: &Closed,
        now: Time,
    ) -> Result<bool, Trouble<T::Error>> {
        let is_done = match self.asking.as_ref().is_some_and(|asking| asking.mends) {
            true => self.mend(replica, tx, who, closed, now)?,
            false => self.adopt(replica, tx, who, closed, now)?,
        };
        if is_done {
            self.caught_up(true, now);
        }
        Ok(is_done)
    }

    /// The end of one about what is missing here.
    fn adopt<T: KvTx>(
        &mut self,
        replica: &mut Replica,
        tx: &mut T,
        (from, by): (Name, Actor),
        closed: &Closed,
        now: Time,
    ) -> Result<bool, Trouble<T::Error>> {
        let said = self.unconfirmed.filter(|(_, since)| now <= *since + CONFIRMED_TIME_MAX);
        let is_confirmed = said.is_some_and(|(other, since)| other != from || since + CONFIRM_TIME <= now);
        match replica.adopt(tx, by, closed, is_confirmed)? {
            Adopted::Done => {
                self.unconfirmed = None;
                return Ok(true);
            }
            Adopted::Unconfirmed { dropped, held } => {
                self.unconfirmed = Some((from, now));
                self.noted.push(Noted::Unconfirmed { with: from, dropped, held });
            }
            Adopted::Stale => {}
        }
        Ok(false)
    }

    /// The end of one about rows that differ though both have seen the same.
    fn mend<T: KvTx>(
        &mut self,
        replica: &mut Replica,
        tx: &mut T,
        (from, by): (Name, Actor),
        closed: &Closed,
        now: Time,
    ) -> Result<bool, Trouble<T::Error>> {
        let mended = replica.mend(tx, by, closed)?;
        if let (Some(keys), Some(peer)) = (mended, self.peers.get_mut(&from)) {
            peer.mended_until = now + MENDED_REST;
            self.noted.push(Noted::Mended { with: from, keys });
        }
        Ok(mended.is_some())
    }

    fn look(&mut self, begun: Begun, mut left: Left, now: Time) -> Sent {
        let Some((divided, wanted)) = left.next() else {
            let by = begun.by;
            return self.send(Body::Close(begun), Step::Closing { by }, now);
        };
        // A long vector is not sent for nothing.
        let may_be_last = left.len() == 0 && is_short(&begun.opened);
        let end_of = may_be_last.then(|| begun.clone());
        let body = Body::Look { divided: divided.clone(), wanted: wanted.clone(), end_of };
        self.send(body, Step::Looking { begun, asked: (divided, wanted), left }, now)
    }

    /// Nothing is missing here of what the peer has seen.
    fn caught_up(&mut self, was_much: bool, now: Time) {
        let Some(asking) = self.asking.take() else { return };
        if let Some(peer) = self.peers.get_mut(&asking.with) {
            peer.rest = match was_much {
                true => Duration::ZERO,
                false => (2 * peer.rest).clamp(FOUND_LITTLE_REST, FOUND_LITTLE_REST_MAX),
            };
            peer.not_before = now + peer.rest;
            peer.checked = peer.digest;
            (peer.differs, peer.unequal) = (None, None);
        }
        self.unconfirmed.take_if(|(other, _)| *other == asking.with);
        self.noted.push(Noted::CaughtUp(asking.with));
    }
}

/// Whether a vector takes no more than what its buckets come to.
fn is_short(vector: &Vector) -> bool {
    vector.iter().map(|(_, seen)| 1 + seen.extras().len()).sum::<usize>() <= SHORT_MAX
}

/// Buckets that the first question tells.
fn told_at_first(replica: &Replica) -> BTreeSet<u8> {
    if is_short(replica.vector()) { (0..=u8::MAX).collect() } else { BTreeSet::new() }
}

/// Answers a question, in one read.
///
/// # Errors
/// When the store fails, or has lost something: then nothing is said of it.
pub fn answer<T: KvTx>(replica: &Replica, tx: &mut T, request: &Request) -> Result<Reply, Trouble<T::Error>> {
    let said = match &request.body {
        Body::Keys(asked) => match replica.answer(tx, asked, BUDGET)? {
            Answer::Keys { keys, part } => Said::Keys { keys, part },
            Answer::Differs(buckets) => Said::Differs(buckets),
            Answer::TooOld => Said::Opened(replica.opened(tx)?),
        },
        Body::Open => Said::Opened(replica.opened(tx)?),
        Body::Look { divided, wanted, end_of } => {
            // Nobody who keeps to it asks more.
            let (divided, wanted) = (divided.iter().take(LOOKED_AT_ONCE), wanted.iter().take(LOOKED_AT_ONCE));
            let (divided, wanted): (Vec<_>, Vec<_>) = (divided.copied().collect(), wanted.cloned().collect());
            let looked = replica.look(tx, &divided, &wanted, BUDGET)?;
            let is_last = looked.divided.is_empty() && looked.rows.iter().all(|told| told.rest.is_none());
            let closed = match end_of.as_ref().filter(|_| is_last) {
                Some(Begun { by, opened }) => replica.close(tx, *by, opened)?,
                None => None,
            };
            Said::Looked(looked, closed)
        }
        Body::Close(Begun { by, opened }) => replica.close(tx, *by, opened)?.map_or(Said::Over, Said::Closed),
    };
    Ok(Reply { to: request.to, number: request.number, said })
}
