//! When a member is down: how many have to say so, who they may be, and for how long. What is decided here is told to
//! everybody, with the words that decided it, and everybody checks it by the same table.
//!
//! | cause | who is enough | not before |
//! |---|---|---|
//! | gone | 3 who watch it, all where there are fewer | they said so within a second of each other |
//! | silent | 3 who watch it, a majority where there are fewer, said just now | the grace after the first answer that one of them missed |
//! | long silent | one who watches it, or let it in | said only after the long time |
//! | unreliable | 3 who watch it, a majority where there are fewer | said only after five of eight exchanges were late, and one is now |
//! | unmet | 3 who should watch it, a majority where there are fewer | said only after the long time |
//! | long unmet | one who should watch it | said only after three long times |

use std::sync::Arc;

use super::fact::{Accusation, Cause, Down, Fact};
use super::members::Members;
use super::name::{Directory, Keys, Member};
use super::overlay;
use super::record::Record;
use super::suspicion::{SILENT_WORD_TIME, UNRELIABLE_WORD_TIME, Word};
use super::time::Time;
use super::{At, Machine};

/// Whether a member has any business with another: it watches it, or has let it in.
pub(super) fn may_accuse(directory: &Directory, members: &Members, accuser: Member, of: &Record) -> bool {
    let Some(subject) = directory.find(of.name()) else { return false };
    let is_introducer = of.claims().introducer.as_ref() == Some(directory.name(accuser));
    is_introducer && accuser != subject || overlay::may_watch(directory, members, accuser, subject)
}

/// Causes in the order in which they are looked at: what decides at once comes first.
const CAUSES: [Cause; 6] =
    [Cause::Gone, Cause::LongSilent, Cause::Silent, Cause::Unreliable, Cause::Unmet, Cause::LongUnmet];

impl Cause {
    /// Whether a word for a cause counts here. That a process has ended, or was silent for long, says also that it is silent.
    fn counts(self, said: Cause) -> bool {
        match self {
            Cause::Gone => said == Cause::Gone,
            Cause::Silent => matches!(said, Cause::Gone | Cause::Silent | Cause::LongSilent),
            Cause::LongSilent => said == Cause::LongSilent,
            Cause::Unreliable => said == Cause::Unreliable,
            Cause::Unmet => matches!(said, Cause::Unmet | Cause::LongUnmet),
            Cause::LongUnmet => said == Cause::LongUnmet,
        }
    }

    /// How many have to say so, where so many watch the member.
    pub(super) fn needed(self, watchers: usize, accusers: usize) -> usize {
        let majority = watchers / 2 + 1;
        let needed = match self {
            Cause::Gone => accusers.min(watchers),
            Cause::Silent | Cause::Unreliable | Cause::Unmet => accusers.min(majority),
            Cause::LongSilent | Cause::LongUnmet => 1,
        };
        needed.max(1)
    }
}

impl<K: Keys> Machine<K> {
    /// Whether what a Down says is enough for this node, with who is where in its own view.
    pub(super) fn is_enough(&self, at: &At, subject: Member, down: &Down) -> bool {
        self.decides(at, subject, down).is_some()
    }

    /// For which cause what a Down says is enough, with who is where in this node's own view.
    pub(super) fn decides(&self, at: &At, subject: Member, down: &Down) -> Option<Cause> {
        let watchers = self.watchers(at.directory, subject);
        let causes: Vec<Cause> = down
            .accusations()
            .iter()
            .filter(|accusation| {
                let accuser = at.directory.find(&accusation.accuser);
                accuser.is_some_and(|accuser| may_accuse(at.directory, &self.members, accuser, down.record()))
            })
            .map(|accusation| accusation.cause)
            .collect();
        CAUSES.into_iter().find(|cause| {
            let count = causes.iter().filter(|said| cause.counts(**said)).count();
            count >= cause.needed(watchers, self.config.accusers)
        })
    }

    /// Finds out whether a member is down, or when that is to be asked again. Only who accuses it itself does.
    pub(super) fn judge(&mut self, at: &mut At, subject: Member) {
        let Some(case) = self.case(subject) else { return };
        if case.words.iter().all(|word| word.accuser != self.me) {
            return;
        }
        let watchers = self.watchers(at.directory, subject);
        let mut later = Time::NEVER;
        for cause in CAUSES {
            let words: Vec<&Word> = case
                .words
                .iter()
                .filter(|word| cause.counts(word.accusation.cause) && self.stands(at, subject, cause, word))
                .collect();
            if words.len() < cause.needed(watchers, self.config.accusers) {
                continue;
            }
            if cause == Cause::Unreliable && !self.is_late(at, subject) {
                continue;
            }
            let since = words.iter().map(|word| word.missed_at).min().unwrap_or(at.now);
            let from = match cause {
                Cause::Silent => since + self.config.grace.mul_f32(self.health.stretch()),
                // Whoever knows better has the time to say so.
                Cause::LongSilent | Cause::LongUnmet => {
                    words.iter().map(|word| word.came_at).min().unwrap_or(at.now) + self.config.help_time
                }
                Cause::Gone | Cause::Unreliable | Cause::Unmet => at.now,
            };
            if from <= at.now {
                let words: Vec<Arc<Accusation>> = words.iter().map(|word| word.accusation.clone()).collect();
                return self.put_down(at, subject, words);
            }
            later = later.min(from);
        }
        self.judge_later(subject, later);
    }

    /// Whoever answers just now is not put down for having been late.
    fn is_late(&self, at: &At, subject: Member) -> bool {
        let late_after = self.health.late_after(&self.config);
        self.links.get(subject).is_some_and(|link| link.is_late(at.now, late_after, &self.config))
    }

    /// Whether a word still stands: this node itself has not heard of the member since, and of a process that ended others
    /// have said so just now.
    fn stands(&self, at: &At, subject: Member, cause: Cause, word: &Word) -> bool {
        match cause {
            Cause::Unreliable => at.now.since(word.said_at) <= UNRELIABLE_WORD_TIME,
            Cause::Gone if at.now.since(word.came_at) > self.config.gone_time => false,
            Cause::Silent if at.now.since(word.said_at) > SILENT_WORD_TIME => false,
            Cause::Gone | Cause::Silent | Cause::LongSilent | Cause::Unmet | Cause::LongUnmet => {
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
