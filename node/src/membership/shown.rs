//! What others see of membership: every member's state, what has just happened, and whether the view is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use libp2p::{Multiaddr, PeerId};
use p2p_api::types::{self, Accuser, MemberCounts, MemberEvent, MemberEventKind, MemberState};
use p2p_gossip::swim::{self, Cause, Claims, Fact, Member, State};

use super::Membership;
use super::events::MemberEvents;
use super::tags::Labels;
use crate::swarm::counters::count;

/// What membership knows, for the rest of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Other members that are here, as far as this node or others know.
    pub(crate) alive: BTreeSet<PeerId>,
    /// Members by state, this one included.
    pub(crate) counts: MemberCounts,
    /// Whether anybody else was ever met by this home.
    pub(crate) ever_met: bool,
    /// Whether anybody else is known or was named.
    pub(crate) expects_others: bool,
    /// Whether this node knows of everybody, as far as that can be known.
    pub(crate) complete: bool,
    /// Whether it takes itself for cut off.
    pub(crate) isolated: bool,
    /// Whether others have found it unreliable, so that it stays away.
    pub(crate) put_out: bool,
    /// Why those who were named were not met.
    pub(crate) reasons: Vec<String>,
}

/// What is shown of everybody.
pub(super) struct Shown {
    members: BTreeMap<Member, One>,
    /// Those who are shown as suspect: what this node holds against them may expire without an event.
    doubted: BTreeSet<Member>,
    events: Arc<MemberEvents>,
    lines: Lines,
    ever_met: bool,
    complete: bool,
    changed: bool,
}

/// Lines of the log about members in [`LINES_TIME`]; of thousands that come at once the rest are counted.
const LINES_MAX: u32 = 40;

const LINES_TIME: Duration = Duration::from_secs(10);

/// How many lines the log has room for.
#[derive(Default)]
struct Lines {
    since: Option<Instant>,
    count: u32,
}

impl Lines {
    /// Whether there is room for one more.
    fn take(&mut self) -> bool {
        if self.since.is_none_or(|since| since.elapsed() >= LINES_TIME) {
            let left_out = self.count.saturating_sub(LINES_MAX);
            if left_out > 0 {
                tracing::info!("{left_out} more lines about members were left out");
            }
            *self = Self { since: Some(Instant::now()), count: 0 };
        }
        self.count += 1;
        self.count <= LINES_MAX
    }
}

struct One {
    state: State,
    since: SystemTime,
    claims: Option<Claims>,
}

impl Shown {
    pub(super) fn new(me: PeerId, generation: u64, ever_met: bool) -> Self {
        Self {
            members: BTreeMap::new(),
            doubted: BTreeSet::new(),
            events: Arc::new(MemberEvents::new(me.to_string(), generation)),
            lines: Lines::default(),
            ever_met,
            complete: false,
            changed: true,
        }
    }

    pub(super) fn events(&self) -> Arc<MemberEvents> {
        self.events.clone()
    }

    /// Something is to be told to the rest of the node.
    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    pub(super) fn set_complete(&mut self, complete: bool) {
        self.changed |= std::mem::replace(&mut self.complete, complete) != complete;
    }

    /// Another member is here; true if none ever was.
    pub(super) fn met(&mut self) -> bool {
        !std::mem::replace(&mut self.ever_met, true)
    }

    pub(super) fn forget(&mut self, member: Member) {
        self.members.remove(&member);
        self.doubted.remove(&member);
        self.changed = true;
    }

    pub(super) fn forget_all(&mut self) {
        self.members.clear();
        self.doubted.clear();
        (self.ever_met, self.changed) = (false, true);
    }

    /// Takes note of what a member is now; what it was and said before.
    fn note(&mut self, member: Member, state: State, claims: Option<Claims>) -> Option<(State, Option<Claims>)> {
        self.changed = true;
        match state {
            State::Suspect => self.doubted.insert(member),
            State::Alive | State::Down | State::Left => self.doubted.remove(&member),
        };
        match self.members.get_mut(&member) {
            None => {
                self.members.insert(member, One { state, since: SystemTime::now(), claims });
                None
            }
            Some(one) => {
                let before = one.claims.clone();
                if claims.is_some() {
                    one.claims = claims;
                }
                let was = std::mem::replace(&mut one.state, state);
                if was != state {
                    one.since = SystemTime::now();
                }
                Some((was, before))
            }
        }
    }
}

impl Membership {
    /// What the rest of the node is to know, if that has changed since the last call.
    pub(crate) fn take_standing(&mut self) -> Option<Standing> {
        if !std::mem::take(&mut self.shown.changed) {
            return None;
        }
        let mut standing = Standing {
            ever_met: self.shown.ever_met,
            expects_others: !self.contacts.is_empty(),
            complete: self.shown.complete,
            isolated: self.machine.is_isolated(),
            put_out: self.machine.is_put_out(),
            reasons: self.contacts.reasons(),
            ..Standing::default()
        };
        for (member, One { state, .. }) in &self.shown.members {
            let count = match state {
                State::Alive => &mut standing.counts.alive,
                State::Suspect => &mut standing.counts.suspect,
                State::Down => &mut standing.counts.down,
                State::Left => &mut standing.counts.left,
            };
            *count += 1;
            let peer = self.peer_of(*member).filter(|peer| *peer != self.me);
            standing.expects_others |= peer.is_some() && *state != State::Left;
            if matches!(state, State::Alive | State::Suspect) {
                standing.alive.extend(peer);
            }
        }
        Some(standing)
    }

    /// Every member, as this node sees it.
    pub(crate) fn list(&self) -> types::Members {
        let one = |(member, One { state, since, .. }): (&Member, &One)| {
            let fact = self.machine.members().get(*member)?;
            let claims = fact.record().claims();
            let Labels { name, tags } = Labels::decode(&claims.tags);
            let said = claims.addresses.iter().filter_map(|bytes| Multiaddr::try_from(bytes.to_vec()).ok());
            Some(types::Member {
                peer: self.peer_of(*member)?.to_string(),
                name,
                state: word(*state),
                since: humantime::format_rfc3339_seconds(*since).to_string(),
                rtt_ms: self.machine.answer_time(*member).map(|time| time.as_micros() as f64 / 1000.0),
                addresses: said.map(|address| address.to_string()).collect(),
                tags,
                fill: claims.fill,
                generation: claims.version.generation,
                incarnation: claims.version.incarnation,
            })
        };
        let mut members: Vec<types::Member> = self.shown.members.iter().filter_map(one).collect();
        members.sort_by(|a, b| a.peer.cmp(&b.peer));
        types::Members { members }
    }

    /// Takes note of everybody, where nothing has happened.
    pub(super) fn show_all(&mut self) {
        let all: Vec<(Member, Claims)> =
            self.machine.members().iter().map(|(member, fact)| (member, fact.record().claims().clone())).collect();
        for (member, claims) in all {
            if let Some(state) = self.machine.state(member) {
                self.shown.note(member, state, Some(claims));
            }
        }
    }

    /// Takes note of who is not doubted any more.
    pub(super) fn trust_again(&mut self) {
        let is_trusted = |member: &Member| self.machine.state(*member) == Some(State::Alive);
        let trusted: Vec<Member> = self.shown.doubted.iter().copied().filter(is_trusted).collect();
        for member in trusted {
            self.shown.note(member, State::Alive, None);
            self.tell(member, MemberEventKind::Trust, Vec::new());
        }
    }

    /// Takes note of an event, and tells it.
    pub(super) fn show(&mut self, event: swim::Event) {
        let me = self.known(&self.me);
        match event {
            swim::Event::Changed(member, fact) => self.show_fact(member, &fact),
            swim::Event::Suspected(member, suspected) => {
                let kind = if suspected { MemberEventKind::Suspect } else { MemberEventKind::Trust };
                let Some(state) = self.machine.state(member) else { return };
                // Of whom it is decided by now that it is down, that is told instead.
                if matches!(state, State::Alive | State::Suspect) {
                    self.shown.note(member, state, None);
                    self.tell(member, kind, Vec::new());
                }
            }
            swim::Event::Isolated(isolated) => {
                self.show_all();
                let kind = if isolated { MemberEventKind::Isolated } else { MemberEventKind::Connected };
                tracing::warn!(
                    isolated,
                    "this node hears {}",
                    if isolated { "nobody any more" } else { "others again" }
                );
                me.into_iter().for_each(|me| self.tell(me, kind, Vec::new()));
            }
            swim::Event::Refuted => {
                self.shown.changed();
                me.into_iter().for_each(|me| self.tell(me, MemberEventKind::Refuted, Vec::new()));
            }
            swim::Event::PutOut => {
                self.shown.changed();
                tracing::warn!("others have found this node unreliable; it stays away for a while");
                me.into_iter().for_each(|me| self.tell(me, MemberEventKind::PutOut, Vec::new()));
            }
        }
    }

    fn show_fact(&mut self, member: Member, fact: &Fact) {
        let Some(state) = self.machine.state(member) else { return };
        let claims = fact.record().claims();
        let before = self.shown.note(member, state, Some(claims.clone()));
        let Some(peer) = self.peer_of(member).filter(|peer| *peer != self.me) else { return };
        let kind = match (fact, before) {
            (Fact::Down(_), _) => MemberEventKind::Down,
            (Fact::Said(_), _) if state == State::Left => MemberEventKind::Leave,
            (Fact::Said(_), None) => MemberEventKind::Join,
            (Fact::Said(_), Some((State::Down | State::Left, _))) => MemberEventKind::Return,
            (Fact::Said(_), Some((_, Some(before)))) => match is_same_start(&before, claims) {
                false => MemberEventKind::Return,
                true if says_the_same(&before, claims) => MemberEventKind::Refute,
                true => MemberEventKind::Update,
            },
            (Fact::Said(_), Some((_, None))) => MemberEventKind::Update,
        };
        let line = match kind {
            MemberEventKind::Join | MemberEventKind::Return => Some("is here"),
            MemberEventKind::Down => Some("is down"),
            MemberEventKind::Leave => Some("has left"),
            _ => None,
        };
        if let Some(line) = line.filter(|_| self.shown.lines.take()) {
            tracing::info!(%peer, "member {line}");
        }
        let accusers = match fact {
            Fact::Said(_) => Vec::new(),
            Fact::Down(down) => {
                let accusers = down.accusations().iter().filter_map(|accusation| {
                    let peer = accusation.accuser.peer()?.to_string();
                    Some(Accuser { peer, cause: cause_word(accusation.cause).to_owned() })
                });
                accusers.collect()
            }
        };
        self.tell(member, kind, accusers);
    }

    fn tell(&self, member: Member, kind: MemberEventKind, accusers: Vec<Accuser>) {
        self.count_event(kind);
        let Some(fact) = self.machine.members().get(member) else { return };
        let Some(peer) = self.peer_of(member) else { return };
        let claims = fact.record().claims();
        self.shown.events.push(MemberEvent {
            id: String::new(),
            at: String::new(),
            kind,
            peer: peer.to_string(),
            name: Labels::decode(&claims.tags).name,
            state: self.machine.state(member).map_or(MemberState::Down, word),
            generation: claims.version.generation,
            incarnation: claims.version.incarnation,
            accusers,
        });
    }
}

impl Membership {
    fn count_event(&self, kind: MemberEventKind) {
        match kind {
            MemberEventKind::Join => count(&self.counters.joins),
            MemberEventKind::Return => count(&self.counters.returns),
            MemberEventKind::Suspect => count(&self.counters.suspicions),
            MemberEventKind::Down => count(&self.counters.downs),
            MemberEventKind::Leave => count(&self.counters.leaves),
            MemberEventKind::Refuted => count(&self.counters.refutations),
            MemberEventKind::Isolated => count(&self.counters.isolations),
            MemberEventKind::Update
            | MemberEventKind::Refute
            | MemberEventKind::Trust
            | MemberEventKind::Connected
            | MemberEventKind::PutOut
            | MemberEventKind::Gap => {}
        }
    }
}

fn is_same_start(one: &Claims, other: &Claims) -> bool {
    (one.version.generation, one.instance) == (other.version.generation, other.instance)
}

fn says_the_same(one: &Claims, other: &Claims) -> bool {
    (&one.addresses, &one.tags, one.fill) == (&other.addresses, &other.tags, other.fill)
}

fn word(state: State) -> MemberState {
    match state {
        State::Alive => MemberState::Alive,
        State::Suspect => MemberState::Suspect,
        State::Down => MemberState::Down,
        State::Left => MemberState::Left,
    }
}

fn cause_word(cause: Cause) -> &'static str {
    match cause {
        Cause::Gone => "gone",
        Cause::Silent => "silent",
        Cause::LongSilent => "long_silent",
        Cause::Unreliable => "unreliable",
        Cause::Unmet => "unmet",
        Cause::LongUnmet => "long_unmet",
    }
}
