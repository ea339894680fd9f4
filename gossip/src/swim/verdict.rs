//! When a member is down: how many have to say so, who they may be, and for how long. What is decided here is told to
//! everybody, with the words that decided it, and everybody checks it by the same table.
//!
//! | cause | who is enough | not before |
//! |---|---|---|
//! | gone | 3 who watch it, all where there are fewer | they said so within a second of each other |
//! | silent | 3 who watch it, a majority where there are fewer | the grace after the first answer that one of them missed |
//! | long silent | one who watches it, or let it in | said only after the long time |
//! | unreliable | 3 who watch it, a majority where there are fewer | said only after six of eight periods without an exchange in time |
//! | unmet | 3 who should watch it, a majority where there are fewer | said only after the long time |
//! | long unmet | one who should watch it | said only after three long times |

use std::sync::Arc;

use super::fact::{Accusation, Cause, Down, Fact};
use super::members::Members;
use super::name::{Directory, Keys, Member};
use super::overlay;
use super::record::Record;
use super::suspicion::{UNRELIABLE_WORD_TIME, Word};
use super::time::Time;
use super::{At, Machine};

/// Whether a member has any business with another: it watches it, or has let it in.
pub(super) fn may_accuse(directory: &Directory, members: &Members, accuser: Member, of: &Record) -> bool {
    let Some(subject) = directory.find(of.name()) else { return false };
    let is_introducer = of.claims().introducer.as_ref() == Some(directory.name(accuser));
    is_introducer && accuser != subject || overlay::may_watch(directory, members, accuser, subject)
}

/// Words that say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    Gone,
    Silent,
    LongSilent,
    Unreliable,
    Unmet,
    LongUnmet,
}

impl Ground {
    const ALL: [Ground; 6] =
        [Ground::Gone, Ground::LongSilent, Ground::Silent, Ground::Unreliable, Ground::Unmet, Ground::LongUnmet];

    /// Whether a word for a cause counts here. That a process has ended, or was silent for long, says also that it is silent.
    fn counts(self, cause: Cause) -> bool {
        match self {
            Ground::Gone => cause == Cause::Gone,
            Ground::Silent => matches!(cause, Cause::Gone | Cause::Silent | Cause::LongSilent),
            Ground::LongSilent => cause == Cause::LongSilent,
            Ground::Unreliable => cause == Cause::Unreliable,
            Ground::Unmet => matches!(cause, Cause::Unmet | Cause::LongUnmet),
            Ground::LongUnmet => cause == Cause::LongUnmet,
        }
    }

    /// How many have to say so, where so many watch the member.
    fn needed(self, watchers: usize, accusers: usize) -> usize {
        let majority = watchers / 2 + 1;
        let needed = match self {
            Ground::Gone => accusers.min(watchers),
            Ground::Silent | Ground::Unreliable | Ground::Unmet => accusers.min(majority),
            Ground::LongSilent | Ground::LongUnmet => 1,
        };
        needed.max(1)
    }
}

impl<K: Keys> Machine<K> {
    fn watchers(&self, at: &At, subject: Member) -> usize {
        overlay::neighbours(at.directory, &self.members, subject, |_| false).len()
    }

    /// Whether what a Down says is enough for this node, with who is where in its own view.
    pub(super) fn is_enough(&self, at: &At, subject: Member, down: &Down) -> bool {
        let watchers = self.watchers(at, subject);
        let causes: Vec<Cause> = down
            .accusations()
            .iter()
            .filter(|accusation| {
                let accuser = at.directory.find(&accusation.accuser);
                accuser.is_some_and(|accuser| may_accuse(at.directory, &self.members, accuser, down.record()))
            })
            .map(|accusation| accusation.cause)
            .collect();
        Ground::ALL.into_iter().any(|ground| {
            let count = causes.iter().filter(|cause| ground.counts(**cause)).count();
            count >= ground.needed(watchers, self.config.accusers)
        })
    }

    /// Finds out whether a member is down, or when that is to be asked again. Only who accuses it itself does.
    pub(super) fn judge(&mut self, at: &mut At, subject: Member) {
        let Some(case) = self.case(subject) else { return };
        if case.words.iter().all(|word| word.accuser != self.me) {
            return;
        }
        let watchers = self.watchers(at, subject);
        let mut later = Time::NEVER;
        for ground in Ground::ALL {
            let words: Vec<&Word> = case
                .words
                .iter()
                .filter(|word| ground.counts(word.accusation.cause) && self.stands(at, subject, ground, word))
                .collect();
            if words.len() < ground.needed(watchers, self.config.accusers) {
                continue;
            }
            let since = words.iter().map(|word| word.missed_at).min().unwrap_or(at.now);
            let from = match ground {
                Ground::Silent => since + self.config.grace.mul_f32(self.health.stretch()),
                // Whoever knows better has the time to say so.
                Ground::LongSilent | Ground::LongUnmet => {
                    words.iter().map(|word| word.came_at).min().unwrap_or(at.now) + self.config.help_time
                }
                Ground::Gone | Ground::Unreliable | Ground::Unmet => at.now,
            };
            if from <= at.now {
                let words: Vec<Arc<Accusation>> = words.iter().map(|word| word.accusation.clone()).collect();
                return self.put_down(at, subject, words);
            }
            later = later.min(from);
        }
        self.judge_later(subject, later);
    }

    /// Whether a word still stands: this node itself has not heard of the member since, and of a process that ended others
    /// have said so just now.
    fn stands(&self, at: &At, subject: Member, ground: Ground, word: &Word) -> bool {
        match ground {
            Ground::Unreliable => at.now.since(word.came_at) <= UNRELIABLE_WORD_TIME,
            Ground::Gone if at.now.since(word.came_at) > self.config.gone_time => false,
            Ground::Gone | Ground::Silent | Ground::LongSilent | Ground::Unmet | Ground::LongUnmet => {
                self.links.get(subject).is_none_or(|link| link.heard_at <= word.came_at)
            }
        }
    }

    fn put_down(&mut self, at: &mut At, subject: Member, words: Vec<Arc<Accusation>>) {
        let Some(known) = self.members.get(subject).filter(|fact| fact.is_live()) else { return };
        let down = Down::new(known.record().clone(), words);
        let fact = Arc::new(Fact::Down(down));
        self.tell_subject(subject, &fact);
        self.learn(at, &fact, None);
    }
}
