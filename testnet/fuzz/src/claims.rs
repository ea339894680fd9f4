//! Whatever sources claim, a get delivers the file in order or nothing, asks for no more than its window, and ends.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::multihash::Multihash;
use p2p_dht::get::{Effect, Get, GetConfig, Input, Outcome, Part, Range, Want, Wanted};
use p2p_dht::object::Object;
use p2p_dht::search::Standing;
use p2p_dht::tree::ObjectRef;

use crate::Bits;
use crate::objects::{File, SMALL};

/// Peers that are known.
const PEERS: u8 = 4;

/// The one of them that asks.
const ME: u8 = 0;

/// A get gives up when nothing moved for so long.
const STALL: Duration = Duration::from_secs(10);

/// Bytes that may be under way: a few leaves.
const WINDOW: u64 = 8 << 10;

/// Steps after which a get must have ended once nothing new is claimed.
const STEPS_MAX: usize = 10_000;

/// One claim of a source after the other, as the bytes say; then silence of the sources, in which the get must end.
pub(crate) fn check(data: &[u8]) {
    let mut bits = Bits(data);
    let file = File::of_len(usize::from(bits.u16()));
    let range =
        Range { start: u64::from(bits.u16()) / 2, end: Some(bits.u16()).filter(|end| *end != 0).map(u64::from) };
    let wanted = if bits.one_in(8) { Wanted::Indexes } else { Wanted::Bytes(range) };
    let mut run = Run::new(&file, wanted);
    run.handle(Input::Start((0..PEERS).map(peer).collect(), Standing::default()));
    while !bits.is_empty() && !run.ended {
        run.claim(&mut bits);
    }
    for _ in 0..STEPS_MAX {
        if run.ended {
            return;
        }
        run.now += Duration::from_millis(100);
        run.fall_silent();
    }
    panic!("it neither fails nor finishes");
}

fn peer(number: u8) -> PeerId {
    // The identity hash of no key: nothing here signs.
    PeerId::from_multihash(Multihash::wrap(0, &[number; 4]).expect("four bytes fit")).expect("short ones are allowed")
}

struct Run<'a> {
    file: &'a File,
    get: Get,
    wanted: Wanted,
    now: Instant,
    /// What was asked and not answered.
    asked: Vec<Asked>,
    delivered: Option<u64>,
    unread: u64,
    /// Bytes that came though nobody had asked for them just then.
    uninvited: u64,
    ended: bool,
}

enum Asked {
    Locate(Part),
    Root(PeerId),
    Which(Part, PeerId, Vec<ObjectRef>),
    Fetch(PeerId, Want),
}

impl<'a> Run<'a> {
    fn new(file: &'a File, wanted: Wanted) -> Self {
        let now = Instant::now();
        let config = GetConfig { me: peer(ME), stall: STALL, window: WINDOW, geometry: SMALL };
        let get = Get::new(config, file.root, wanted, now);
        Self { file, get, wanted, now, asked: Vec::new(), delivered: None, unread: 0, uninvited: 0, ended: false }
    }

    /// Answers something that was asked, or says something that nobody asked for.
    fn claim(&mut self, bits: &mut Bits<'_>) {
        self.now += Duration::from_millis(u64::from(bits.byte()));
        let choice = bits.byte();
        match choice % 8 {
            0 => return self.handle(Input::Tick),
            1 if self.unread > 0 => {
                let read = std::mem::take(&mut self.unread);
                return self.handle(Input::Consumed(read));
            }
            2 => return self.unasked(bits),
            _ if self.asked.is_empty() => return self.unasked(bits),
            _ => {}
        }
        let asked = self.asked.swap_remove(bits.below(self.asked.len()));
        let input = match asked {
            Asked::Locate(part) => Input::Located(part, self.some(bits), self.some(bits)),
            Asked::Root(peer) => Input::RootAnswered(peer, [None, Some(true), Some(false)][bits.below(3)]),
            Asked::Which(part, peer, objects) => {
                let has = objects.into_iter().filter(|_| !bits.one_in(4)).collect();
                Input::Answered(part, peer, Some(has).filter(|_| !bits.one_in(8)))
            }
            Asked::Fetch(peer, want) => match self.object(want).filter(|_| !bits.one_in(4)) {
                Some(object) => Input::Got(peer, object),
                None => Input::Missed(peer, want, outcome(bits)),
            },
        };
        self.handle(input);
    }

    /// What this node does by itself goes on: it looks up, gives up questions, and reads what came.
    fn fall_silent(&mut self) {
        for asked in std::mem::take(&mut self.asked) {
            self.handle(match asked {
                Asked::Locate(part) => Input::Located(part, Vec::new(), Vec::new()),
                Asked::Root(peer) => Input::RootAnswered(peer, None),
                Asked::Which(part, peer, _) => Input::Answered(part, peer, None),
                Asked::Fetch(me, want) if me == peer(ME) => Input::Missed(me, want, Outcome::Failed),
                Asked::Fetch(..) => {
                    self.asked.push(asked);
                    continue;
                }
            });
        }
        let read = std::mem::take(&mut self.unread);
        if read > 0 {
            self.handle(Input::Consumed(read));
        }
        self.handle(Input::Tick);
    }

    fn unasked(&mut self, bits: &mut Bits<'_>) {
        let peer = peer(bits.byte() % (PEERS + 1));
        let object = self.file.objects[bits.below(self.file.objects.len())].clone();
        let reference = *object.reference();
        let input = match bits.byte() % 6 {
            0 => {
                // Where it was asked for after all, it is the answer.
                let is_answer = self.forget(peer, Want::Object(reference));
                self.uninvited += if is_answer { 0 } else { reference.len };
                Input::Got(peer, object)
            }
            1 | 2 => {
                let want = if bits.one_in(2) { Want::Root } else { Want::Object(reference) };
                self.forget(peer, want);
                Input::Missed(peer, want, outcome(bits))
            }
            3 => Input::RootAnswered(peer, Some(true)),
            4 => Input::Heard(peer),
            _ => Input::Consumed(0),
        };
        self.handle(input);
    }

    fn some(&self, bits: &mut Bits<'_>) -> Vec<PeerId> {
        let mask = bits.byte();
        (0..PEERS).filter(|number| mask & 1 << number != 0).map(peer).collect()
    }

    fn object(&self, want: Want) -> Option<Object> {
        let is_wanted = |object: &&Object| match want {
            Want::Root => object.reference().id == p2p_dht::tree::Id::Root(self.file.root),
            Want::Object(reference) => *object.reference() == reference,
        };
        self.file.objects.iter().find(is_wanted).cloned()
    }

    fn handle(&mut self, input: Input) {
        for effect in self.get.handle(input, self.now) {
            assert!(!self.ended, "{effect:?} after the end");
            match effect {
                Effect::Locate(part, _) => self.asked.push(Asked::Locate(part)),
                Effect::AskRoot(peers) => self.asked.extend(peers.into_iter().map(Asked::Root)),
                Effect::Ask(part, peers, objects) => {
                    self.asked.extend(peers.into_iter().map(|peer| Asked::Which(part, peer, objects.clone())));
                }
                Effect::Fetch(peer, wants) => {
                    self.asked.extend(wants.into_iter().map(|want| Asked::Fetch(peer, want)));
                }
                Effect::Cancel(peer, want) => {
                    assert!(self.forget(peer, want), "only what was asked for is cancelled");
                }
                // Of use to searches to come, of which there are none here.
                Effect::Silent(_) => {}
                Effect::Found(len) => assert_eq!(len, self.file.bytes.len() as u64, "of another file"),
                Effect::Deliver(object) => self.take(&object),
                Effect::Finished => {
                    self.ended = true;
                    self.check_end();
                }
                Effect::Failed(_) => self.ended = true,
            }
        }
        self.check_window();
    }

    /// Takes back what a source was asked for; says whether it was.
    fn forget(&mut self, peer: PeerId, want: Want) -> bool {
        let matches = |asked: &Asked| matches!(asked, Asked::Fetch(of, what) if (*of, *what) == (peer, want));
        let at = self.asked.iter().position(matches);
        at.map(|at| self.asked.swap_remove(at)).is_some()
    }

    fn take(&mut self, object: &Object) {
        let ObjectRef { offset, len, .. } = *object.reference();
        self.unread += object.payload().len() as u64;
        if self.wanted == Wanted::Indexes {
            return;
        }
        assert_eq!(offset % SMALL.leaf_len, 0);
        assert!(self.delivered.is_none_or(|end| end == offset), "{offset} follows {:?}", self.delivered);
        assert_eq!(object.payload()[..], self.file.bytes[offset as usize..(offset + len) as usize]);
        self.delivered = Some(offset + len);
    }

    fn check_end(&self) {
        let Wanted::Bytes(range) = self.wanted else { return };
        let len = self.file.bytes.len() as u64;
        let end = range.end.unwrap_or(len).min(len);
        if range.start < end {
            assert!(self.delivered.is_some_and(|delivered| delivered >= end), "{:?} of {range:?}", self.delivered);
        }
    }

    /// Several may be asked for the same, but all that is asked for differs by no more than fits the window.
    fn check_window(&self) {
        let mut leaves: Vec<u64> = Vec::new();
        for asked in &self.asked {
            if let Asked::Fetch(_, Want::Object(reference)) = asked
                && reference.len <= SMALL.leaf_len
            {
                leaves.push(reference.offset);
            }
        }
        leaves.sort_unstable();
        leaves.dedup();
        let under_way = leaves.len() as u64 * SMALL.leaf_len;
        // An index counts as a leaf, though in this small shape it may be longer; one object may be too large for any window.
        let object_max = SMALL.payload_len_max();
        let allowed = match self.wanted {
            Wanted::Bytes(_) => WINDOW + SMALL.leaf_len,
            Wanted::Indexes => WINDOW / SMALL.leaf_len * object_max + object_max,
        };
        assert!(under_way + self.unread <= allowed + self.uninvited, "{under_way} + {} bytes", self.unread);
    }
}

fn outcome(bits: &mut Bits<'_>) -> Outcome {
    [Outcome::Absent, Outcome::Bad, Outcome::Failed][bits.below(3)]
}
