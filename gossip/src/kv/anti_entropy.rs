//! Finding out what was missed, and fetching it: one peer at a time, one question at a time.
//!
//! Peers tell each other what their vectors come to. Where that differs for longer than writes are on their way, this side asks:
//! first key by key, and if the other has dropped what would have to be told, by comparing all. Whoever is asked keeps nothing in
//! mind. A question carries the life of the asker that asks it, and a number: what answers another is not looked at.
//!
//! | step | sent | answered by |
//! |---|---|---|
//! | keys | [`Body::Keys`] | [`Said::Differs`]: the same with more buckets; [`Said::Keys`]: again, until nothing is missing; [`Said::TooOld`]: compare |
//! | compare | [`Body::Open`], then [`Body::Look`] until nothing is left to look at, then [`Body::Close`] | [`Said::Opened`], [`Said::Looked`], [`Said::Closed`]; [`Said::Over`]: from the beginning |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::delta::{Answer, Asked, Budget, Told};
use super::dot::Actor;
use super::replica::{Digest, Replica, Trouble};
use super::session::{Adopted, Closed, Looked, Opened, Wanted};
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

/// A comparison that drops much waits so long for somebody else to say the same.
pub const CONFIRM_TIME: Duration = Duration::from_secs(60);

/// Times that more buckets are told because they differ, too, until all are.
const DIFFERS_MAX: u32 = 3;

/// Times that a comparison is begun anew before the peer is left alone for a while.
const BEGUN_MAX: u32 = 3;

/// What is told at once.
pub const BUDGET: Budget = Budget { keys: 512, bytes: 1 << 20 };

/// Rows that are told at once.
pub const ROWS_MAX: usize = 512;

/// Ranges that are looked at with one question.
const LOOKED_AT_ONCE: usize = 256;

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
    },
    /// How it ends.
    Close {
        /// Which life of the other it began with.
        by: Actor,
        /// What that had seen then.
        opened: Vector,
    },
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
    /// See [`Answer::TooOld`].
    TooOld,
    /// The beginning of a comparison.
    Opened(Opened),
    /// What was found.
    Looked(Looked),
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
}

/// What is known of a peer.
#[derive(Clone, Debug, Default)]
struct Peer {
    digest: Option<Digest>,
    /// Since when it differs.
    differs: Option<Time>,
    /// Nothing is missing here of what it had seen when it came to this.
    checked: Option<Digest>,
    /// Not asked before.
    not_before: Time,
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
    begun: u32,
    step: Step,
}

#[derive(Clone, Debug)]
enum Step {
    Keys { asked: Vector, buckets: BTreeSet<u8>, differed: u32 },
    Opening,
    Looking { by: Actor, opened: Vector, divided: VecDeque<Divided>, wanted: VecDeque<Wanted> },
    Closing { by: Actor },
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

    /// What a peer's copy comes to. Whether all of ours is known to it.
    pub fn told(&mut self, replica: &Replica, peer: Name, theirs: Digest, now: Time) -> bool {
        let ours = replica.digest();
        let Some(known) = self.peers.get_mut(&peer) else { return false };
        known.digest = Some(theirs);
        let equal = ours.vector == theirs.vector;
        known.differs = if equal { None } else { Some(known.differs.unwrap_or(now)) };
        if equal && ours.rows != theirs.rows {
            self.noted.push(Noted::Integrity(peer));
        }
        equal
    }

    /// When there is something to do.
    pub fn deadline(&self) -> Time {
        match &self.asking {
            Some(asking) => asking.until,
            None => self.peers.iter().filter_map(|(name, peer)| self.ask_at(*name, peer)).min().unwrap_or(Time::NEVER),
        }
    }

    /// When a peer is to be asked, if there is reason to.
    fn ask_at(&self, name: Name, peer: &Peer) -> Option<Time> {
        let differs = peer.differs.filter(|_| peer.digest.is_some() && peer.digest != peer.checked)?;
        let at = peer.not_before.max(differs + DIFFER_TIME);
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
        let (me, until) = (replica.me(), now);
        self.asking = Some(Asking { with, me, number: 0, until, begun: 0, step: Step::Opening });
        Ok(self.ask_keys(replica, BTreeSet::new(), 0, now))
    }

    /// Gives up: the peer has its turn again later.
    fn fail<T: KvTx>(&mut self, replica: &mut Replica, tx: &mut T, now: Time) -> Result<(), Trouble<T::Error>> {
        let Some(asking) = self.asking.take() else { return Ok(()) };
        if let Some(peer) = self.peers.get_mut(&asking.with) {
            peer.not_before = now + FAILED_TIME;
        }
        replica.abandon(tx)
    }

    fn send(&mut self, body: Body, step: Step, now: Time) -> Sent {
        self.number += 1;
        let asking = self.asking.as_mut()?;
        (asking.number, asking.until, asking.step) = (self.number, now + ANSWER_TIME_MAX, step);
        Some((asking.with, Request { to: asking.me, number: self.number, body }))
    }

    fn ask_keys(&mut self, replica: &Replica, buckets: BTreeSet<u8>, differed: u32, now: Time) -> Sent {
        let body = Body::Keys(replica.ask(buckets.clone()));
        self.send(body, Step::Keys { asked: replica.vector().clone(), buckets, differed }, now)
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
        let is_awaited = |asking: &&Asking| {
            asking.with == from && asking.number == reply.number && asking.me == reply.to && replica.me() == reply.to
        };
        let Some(asking) = self.asking.as_ref().filter(is_awaited) else { return Ok(None) };
        match (asking.step.clone(), reply.said) {
            (Step::Keys { mut buckets, differed, .. }, Said::Differs(more)) => {
                buckets.extend(more);
                if differed == DIFFERS_MAX {
                    buckets = (0..=u8::MAX).collect();
                }
                Ok(self.ask_keys(replica, buckets, differed + 1, now))
            }
            (Step::Keys { .. }, Said::Keys { keys, .. }) if keys.is_empty() => {
                self.caught_up();
                Ok(None)
            }
            (Step::Keys { asked, buckets, .. }, Said::Keys { keys, part }) => {
                let mut theirs = asked.part(|bucket| !buckets.contains(&bucket));
                theirs.join(&part);
                if replica.merge(tx, &keys, &theirs)? == 0 && asked == *replica.vector() {
                    // Whoever tells nothing new is not asked for more of it.
                    self.fail(replica, tx, now)?;
                    return Ok(None);
                }
                Ok(self.ask_keys(replica, buckets, 0, now))
            }
            (Step::Keys { .. }, Said::TooOld) => Ok(self.send(Body::Open, Step::Opening, now)),
            (Step::Opening, Said::Opened(opened)) => {
                let found = replica.begin(tx, &opened)?;
                let (divided, wanted) = (VecDeque::new(), VecDeque::new());
                Ok(self.look(opened.by, opened.vector, divided, wanted, found, now))
            }
            (Step::Looking { divided, wanted, .. }, Said::Looked(looked))
                if divided.len() + wanted.len() + looked.divided.len() + looked.rows.len() > RANGES_MAX =>
            {
                self.fail(replica, tx, now)?;
                Ok(None)
            }
            (Step::Looking { by, opened, divided, mut wanted }, Said::Looked(looked)) => {
                for rows in &looked.rows {
                    replica.stage(tx, rows)?;
                    wanted.extend(rows.rest.clone());
                }
                let found = replica.compare(tx, &looked.divided)?;
                Ok(self.look(by, opened, divided, wanted, found, now))
            }
            (Step::Closing { by }, Said::Closed(closed)) => {
                let is_confirmed =
                    self.unconfirmed.is_some_and(|(other, since)| other != from || since + CONFIRM_TIME <= now);
                match replica.adopt(tx, by, &closed, is_confirmed)? {
                    Adopted::Done => {
                        self.unconfirmed = None;
                        self.caught_up();
                    }
                    Adopted::Unconfirmed { dropped, held } => {
                        self.unconfirmed = Some((from, now));
                        self.noted.push(Noted::Unconfirmed { with: from, dropped, held });
                        self.fail(replica, tx, now)?;
                    }
                    Adopted::Stale => self.fail(replica, tx, now)?,
                }
                Ok(None)
            }
            (Step::Opening | Step::Looking { .. } | Step::Closing { .. }, Said::Over) if asking.begun < BEGUN_MAX => {
                replica.abandon(tx)?;
                self.asking.iter_mut().for_each(|asking| asking.begun += 1);
                Ok(self.send(Body::Open, Step::Opening, now))
            }
            _ => {
                self.fail(replica, tx, now)?;
                Ok(None)
            }
        }
    }

    fn look(
        &mut self,
        by: Actor,
        opened: Vector,
        mut divided: VecDeque<Divided>,
        mut wanted: VecDeque<Wanted>,
        found: Differences,
        now: Time,
    ) -> Sent {
        divided.extend(found.divided);
        wanted.extend(found.few.into_iter().map(|range| Wanted { range, after: None }));
        if divided.is_empty() && wanted.is_empty() {
            return self.send(Body::Close { by, opened }, Step::Closing { by }, now);
        }
        let body = Body::Look {
            divided: divided.drain(..divided.len().min(LOOKED_AT_ONCE)).collect(),
            wanted: wanted.drain(..wanted.len().min(LOOKED_AT_ONCE)).collect(),
        };
        self.send(body, Step::Looking { by, opened, divided, wanted }, now)
    }

    /// Nothing is missing here of what the peer has seen.
    fn caught_up(&mut self) {
        let Some(asking) = self.asking.take() else { return };
        if let Some(peer) = self.peers.get_mut(&asking.with) {
            peer.checked = peer.digest;
            peer.differs = None;
        }
        self.noted.push(Noted::CaughtUp(asking.with));
    }
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
            Answer::TooOld => Said::TooOld,
        },
        Body::Open => Said::Opened(replica.opened(tx)?),
        Body::Look { divided, wanted } => Said::Looked(replica.look(tx, divided, wanted, ROWS_MAX)?),
        Body::Close { by, opened } => replica.close(tx, *by, opened)?.map_or(Said::Over, Said::Closed),
    };
    Ok(Reply { to: request.to, number: request.number, said })
}
