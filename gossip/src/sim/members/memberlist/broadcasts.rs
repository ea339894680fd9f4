//! What is to be told everybody, a limited number of times each (memberlist's `TransmitLimitedQueue`, `queue.go`).
//!
//! What was sent least often goes first; of those the longest that fits, and of those the newest. Something about a
//! member takes the place of whatever else there is about it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::message::{COMPOUND_ENTRY_LEN, Message};
use crate::swim::Member;

/// How often it was sent, its length, and which it was.
type Rank = (u32, Reverse<usize>, Reverse<u64>);

/// What is to be told.
#[derive(Default)]
pub(super) struct Broadcasts {
    by_rank: BTreeMap<Rank, Member>,
    by_member: BTreeMap<Member, (Rank, Message)>,
    last: u64,
}

impl Broadcasts {
    pub(super) fn is_empty(&self) -> bool {
        self.by_rank.is_empty()
    }

    /// Whether there is something about a member.
    pub(super) fn contains(&self, member: Member) -> bool {
        self.by_member.contains_key(&member)
    }

    /// Tells this of a member, and nothing else.
    pub(super) fn push(&mut self, member: Member, message: Message) {
        self.last += 1;
        let rank = (0, Reverse(message.encoded_len()), Reverse(self.last));
        if let Some((before, _)) = self.by_member.insert(member, (rank, message)) {
            self.by_rank.remove(&before);
        }
        self.by_rank.insert(rank, member);
    }

    /// What goes into so many bytes of a packet, each counted as sent. Done with what has been sent `limit` times.
    pub(super) fn take(&mut self, len_max: usize, limit: u32) -> Vec<Message> {
        let (mut taken, mut again) = (Vec::new(), Vec::new());
        let mut len = 0;
        let last_tier = self.by_rank.last_key_value().map(|((sent, ..), _)| *sent);
        let mut tier = self.by_rank.first_key_value().map_or(0, |((sent, ..), _)| *sent);
        while last_tier.is_some_and(|last| tier <= last) && len + COMPOUND_ENTRY_LEN < len_max {
            let room = len_max - len - COMPOUND_ENTRY_LEN;
            let Some((rank, member)) = self.fitting(tier, room) else {
                tier += 1;
                continue;
            };
            self.by_rank.remove(&rank);
            let (sent, Reverse(message_len), id) = rank;
            len += COMPOUND_ENTRY_LEN + message_len;
            if sent + 1 < limit {
                let rank = (sent + 1, Reverse(message_len), id);
                again.push((rank, member));
                if let Some((before, message)) = self.by_member.get_mut(&member) {
                    *before = rank;
                    taken.push(message.clone());
                }
            } else {
                taken.extend(self.by_member.remove(&member).map(|(_, message)| message));
            }
        }
        // Only now, or they would be taken again on the next tier.
        self.by_rank.extend(again);
        taken
    }

    /// The longest, and of those the newest, that fits and was sent so often.
    fn fitting(&self, sent: u32, room: usize) -> Option<(Rank, Member)> {
        let range = (sent, Reverse(room), Reverse(u64::MAX))..(sent + 1, Reverse(usize::MAX), Reverse(u64::MAX));
        self.by_rank.range(range).next().map(|(rank, member)| (*rank, *member))
    }
}
