//! A node's map as a machine: takes what is to be done together in one transaction, and says what follows once that is
//! durable. What it is told and what it says are plain values; the store is the caller's, and so is time.

use std::time::Duration;

use bytes::Bytes;

use super::anti_entropy::{self, AntiEntropy, Noted, Reply, Request, Sent};
use super::dot::Dot;
use super::key::Key;
use super::op::Op;
use super::replica::{Digest, Epochs, Replica, Trouble};
use super::store::KvTx;
use super::write::{Write, WriteError, Written};
use crate::swim::{Name, Time};

/// Something to do.
#[derive(Clone, Debug)]
pub enum Work {
    /// There is a connection to a peer.
    Up(Name),
    /// It is gone.
    Down(Name),
    /// A write has come, with its encoding.
    Apply(Op, Bytes),
    /// What a peer's copy comes to.
    Digest(Name, Digest),
    /// A peer asks.
    Request(Name, Request),
    /// A peer answers.
    Reply(Name, Reply),
    /// A peer does not answer the question of this number.
    Unanswered(Name, u64),
    /// A client writes.
    Call(Call),
    /// To look whether everything is what was written.
    Audit,
    /// This copy holds all that a whole one holds.
    Reconciled,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub struct Call {
    /// By which its outcome is known.
    pub number: u64,
    /// Of which key.
    pub key: Key,
    /// What is to be there; None deletes.
    pub value: Option<Bytes>,
    /// What it is to take the place of.
    pub write: Write,
}

/// What follows from a transaction, once it is durable.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A question for a peer.
    Ask(Name, Request),
    /// An answer for a peer.
    Answer(Name, Reply),
    /// A call has come to its end: None where there was nothing to do. What was written is to be told to all.
    Called(u64, Result<Option<Written>, WriteError>),
    /// Something has come to be known.
    Noted(Noted),
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Writes that stay in the log, so that who was away shortly can be told what it lacks key by key.
    pub log_keep: u64,
    /// Whether nobody else was ever met. Else a write leaves the log only once somebody else has seen it.
    pub is_alone: bool,
    /// Bytes of what another holds that are kept until all of it can be taken in. A comparison of more is given up.
    pub staged_len_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { log_keep: u64::MAX, is_alone: false, staged_len_max: u64::MAX }
    }
}

/// Rows that are looked at together to see whether they are what was written.
const AUDITED_AT_ONCE: usize = 4096;

/// Pause after so many, for others.
const AUDIT_PAUSE: Duration = Duration::from_millis(50);

/// After looking at all rows, the same reason does not count for so long for each of them, so that a peer cannot keep this node
/// looking. It is not longer because whoever compares all with this node meanwhile may find equal what is not.
const AUDIT_REST: Duration = Duration::from_micros(50);

/// The machine.
pub struct Machine {
    config: Config,
    replica: Replica,
    anti_entropy: AntiEntropy,
    peers: Vec<Name>,
    /// All that is in the log before this place another node has seen.
    seen: u64,
    /// When all is to be looked at because of what somebody else holds.
    audit_at: Time,
    /// Not before, however often there is reason to.
    audit_not_before: Time,
    /// The leaf that is looked at next, and when, while all are.
    audit: Option<(usize, Time)>,
}

impl Machine {
    /// Over a copy that was opened, or built again.
    pub fn new(config: Config, replica: Replica, seed: u64) -> Self {
        Self {
            config,
            replica,
            anti_entropy: AntiEntropy::new(seed),
            peers: Vec::new(),
            seen: 0,
            audit_at: Time::NEVER,
            audit_not_before: Time(0),
            audit: None,
        }
    }

    /// The copy.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The same, to take from it what it has noted.
    pub fn replica_mut(&mut self) -> &mut Replica {
        &mut self.replica
    }

    /// Keeps another measure from now on.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
    }

    /// When there is something to do without being told.
    pub fn deadline(&self) -> Time {
        let audit = self.audit.map_or(Time::NEVER, |(_, at)| at);
        self.audit_at.min(audit).min(self.anti_entropy.deadline())
    }

    /// Does all of this in a transaction, which is to be committed next. After an error it is to be given up, and this machine
    /// with it; after [`super::Damage`] [`Machine::recover`] makes another.
    ///
    /// # Errors
    /// When the store fails, or has lost something.
    pub fn transact<T: KvTx>(
        &mut self,
        tx: &mut T,
        work: Vec<Work>,
        now: Time,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Trouble<T::Error>> {
        // Whatever becomes of the rest, connections are there or not.
        for work in &work {
            match work {
                Work::Up(name) if !self.peers.contains(name) => {
                    self.peers.push(*name);
                    self.config.is_alone = false;
                }
                Work::Down(name) => self.peers.retain(|other| other != name),
                _ => {}
            }
        }
        for work in work {
            self.work(tx, work, now, effects)?;
        }
        if self.audit_at <= now {
            let rest = AUDIT_REST.saturating_mul(u32::try_from(self.replica.len()).unwrap_or(u32::MAX));
            (self.audit_at, self.audit_not_before) = (Time::NEVER, now + rest);
            self.work(tx, Work::Audit, now, effects)?;
        }
        if let Some((leaf, _)) = self.audit.filter(|(_, at)| *at <= now) {
            let next = self.replica.check_from(tx, leaf, AUDITED_AT_ONCE)?;
            self.audit = next.map(|leaf| (leaf, now + AUDIT_PAUSE));
        }
        let sent = self.anti_entropy.wake(&mut self.replica, tx, now)?;
        ask(sent, effects);
        let seen = if self.config.is_alone { tx.log_end()? } else { self.seen };
        self.replica.trim_log(tx, self.config.log_keep, seen)?;
        for noted in self.anti_entropy.take_noted() {
            // One of the two has lost something without noticing: both look.
            if matches!(noted, Noted::Integrity(_)) {
                self.audit_at = self.audit_at.min(self.audit_not_before.max(now));
            }
            effects.push(Effect::Noted(noted));
        }
        self.replica.finish(tx)
    }

    fn work<T: KvTx>(
        &mut self,
        tx: &mut T,
        work: Work,
        now: Time,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Trouble<T::Error>> {
        let replica = &mut self.replica;
        match work {
            Work::Up(name) => self.anti_entropy.up(name),
            Work::Down(name) => self.anti_entropy.down(replica, tx, name)?,
            Work::Apply(op, bytes) => {
                replica.apply(tx, &op, &bytes)?;
            }
            Work::Digest(name, digest) => {
                if self.anti_entropy.told(replica, name, digest, now) {
                    self.seen = tx.log_end()?;
                }
            }
            Work::Request(name, request) => {
                let reply = anti_entropy::answer(replica, tx, &request)?;
                effects.push(Effect::Answer(name, reply));
            }
            Work::Reply(name, reply) => {
                let sent = self.anti_entropy.reply(replica, tx, name, reply, now)?;
                self.anti_entropy.bound(replica, tx, self.config.staged_len_max, now)?;
                ask(sent, effects);
            }
            Work::Unanswered(name, number) => self.anti_entropy.unanswered(replica, tx, name, number, now)?,
            Work::Call(Call { number, key, value, write }) => {
                let outcome = replica.write(tx, &key, value, &write)?;
                effects.push(Effect::Called(number, outcome));
            }
            Work::Reconciled => {
                if tx.is_behind()? {
                    tx.set_behind(false)?;
                }
            }
            Work::Audit => {
                self.audit.get_or_insert((0, now));
            }
        }
        Ok(())
    }

    /// Builds the copy again from what is left of it, in a transaction of its own. Nothing that was under way is of this life.
    ///
    /// # Errors
    /// When the store fails.
    pub fn recover<T: KvTx>(&mut self, tx: &mut T, epochs: Epochs, seed: u64) -> Result<(), Trouble<T::Error>> {
        let replica = Replica::recover(tx, self.replica.me().peer, epochs)?;
        self.begin_anew(replica, seed);
        self.replica.finish(tx)
    }

    /// Goes on with the copy as the store has it, after a transaction that could not be done. Nothing that was under way is of
    /// this life.
    ///
    /// # Errors
    /// When the store fails, or has lost something.
    pub fn reopen<T: KvTx>(&mut self, tx: &mut T, epochs: Epochs, seed: u64) -> Result<(), Trouble<T::Error>> {
        let replica = Replica::open(tx, self.replica.me().peer, epochs)?;
        self.begin_anew(replica, seed);
        Ok(())
    }

    fn begin_anew(&mut self, replica: Replica, seed: u64) {
        self.replica = replica;
        self.anti_entropy = AntiEntropy::new(seed);
        self.peers.iter().for_each(|name| self.anti_entropy.up(*name));
        self.seen = 0;
        (self.audit_at, self.audit) = (Time::NEVER, None);
    }

    /// For how long a peer's copy has been another, of all the longest.
    pub fn differs_for(&self, now: Time) -> Option<Duration> {
        self.anti_entropy.differs_since().map(|since| now.since(since))
    }

    /// What a peer is told on every exchange.
    pub fn digest(&self) -> Digest {
        self.replica.digest()
    }

    /// Whether a write was seen here.
    pub fn has_seen(&self, dot: &Dot) -> bool {
        self.replica.vector().contains(dot)
    }
}

fn ask(sent: Sent, effects: &mut Vec<Effect>) {
    effects.extend(sent.map(|(to, request)| Effect::Ask(to, request)));
}

#[cfg(test)]
mod tests {
    use super::super::store::Memory;
    use super::*;

    #[test]
    fn who_does_not_answer_does_not_keep_others_from_being_asked() {
        let (me, peers) = (Name([1; 32]), [Name([2; 32]), Name([3; 32])]);
        let mut disk = Memory::default();
        let Ok(replica) = Replica::open(&mut disk, me, Epochs::new([1; 32])) else { panic!("it is empty") };
        let mut machine = Machine::new(Config::default(), replica, 1);
        let other = Digest { vector: [1; 16], rows: [1; 16] };
        let mut transact = |work: Vec<Work>, now: u64| {
            let mut effects = Vec::new();
            machine.transact(&mut disk, work, Time(now), &mut effects).expect("it works");
            effects.into_iter().find_map(|effect| match effect {
                Effect::Ask(name, request) => Some((name, request.number)),
                _ => None,
            })
        };
        let begin = peers.iter().flat_map(|peer| [Work::Up(*peer), Work::Digest(*peer, other)]).collect();
        let (first, number) = transact(begin, 2_000_000).expect("one is asked");
        assert_eq!(transact(vec![Work::Unanswered(first, number + 1)], 2_000_001), None, "that was another question");
        let (second, _) = transact(vec![Work::Unanswered(first, number)], 2_000_002).expect("the other is asked");
        assert_ne!(second, first);
    }

    #[test]
    fn a_connection_that_came_up_when_damage_was_found_is_there_afterwards() {
        let (me, peer) = (Name([1; 32]), Name([2; 32]));
        let mut disk = Memory::default();
        let Ok(replica) = Replica::open(&mut disk, me, Epochs::new([1; 32])) else { panic!("it is empty") };
        let mut machine = Machine::new(Config { log_keep: 9, ..Config::default() }, replica, 1);
        let key = Key::new("key").expect("a key");
        let (value, write) = (Some("value".into()), Write::Held { force: false });
        let call = Work::Call(Call { number: 1, key: key.clone(), value, write });
        let mut effects = Vec::new();
        machine.transact(&mut disk, vec![call], Time(1), &mut effects).expect("it works");
        let Ok(()) = disk.set_row(super::super::Place::of(&key), &key, None);
        let work = vec![Work::Audit, Work::Up(peer)];
        machine.transact(&mut disk.clone(), work, Time(2), &mut effects).expect_err("a row is gone");
        let Ok(()) = machine.recover(&mut disk, Epochs::new([2; 32]), 2) else { panic!("memory does not fail") };
        effects.clear();
        let other = Digest { vector: [1; 16], rows: [1; 16] };
        let work = vec![Work::Digest(peer, other)];
        machine.transact(&mut disk, work, Time(2_000_000), &mut effects).expect("it works");
        assert!(matches!(&effects[..], [Effect::Ask(asked, _)] if *asked == peer), "{effects:?}");
    }
}
