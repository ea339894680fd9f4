//! Questions and answers as bytes, for streams between nodes.
//!
//! ```text
//! question  = actor 40 of the asker | number | kind 1 | body          answer = the same
//! vector    = peers | (peer 32 | epochs | (epoch 8 | base | extras | distance of each to what is before it) each) each
//! range     = depth 1 | the bits in which its places agree
//! divided   = range | which of its parts hold something 1 | digest 16 of each that does
//! key       = length | bytes                                          entry, dots = as in a row
//! ```
//!
//! Lengths, counts and numbers without a size are LEB128, in their shortest form. What is read has no more parts than there are
//! bytes for, so a stranger's length costs nothing; and of parts that take far more room than bytes, no more than so many.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::anti_entropy::{Begun, Body, Reply, Request, Said};
use super::delta::{Asked, Told};
use super::dot::{Actor, BUCKETS};
use super::entry::Entry;
use super::key::{KEY_LEN_MAX, Key};
use super::op;
use super::replica::{DIGEST_LEN, Digest};
use super::row;
use super::session::{CHANGED_MAX, Closed, Looked, Opened, Rows, Wanted};
use super::vector::{Seen, Vector};
use crate::reconcile::{Divided, PARTS, Range};
use crate::swim::Name;

/// Ranges of one message: whoever keeps to it tells far fewer.
const RANGES_MAX: usize = 1 << 16;

/// Keys of one message.
const KEYS_MAX: usize = CHANGED_MAX as usize;

/// Numbers of one vector: its actors, and what was seen of them out of order.
const NUMBERS_MAX: u64 = 1 << 19;

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message about the map")]
pub struct Malformed;

impl Request {
    /// Its only encoding.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        op::put_actor(&mut out, &self.to);
        put_number(&mut out, self.number);
        match &self.body {
            Body::Keys(Asked { digests, buckets, part }) => {
                out.put_u8(0);
                put_buckets(&mut out, buckets);
                digests.values().for_each(|digest| out.put_slice(digest));
                put_vector(&mut out, part);
            }
            Body::Open => out.put_u8(1),
            Body::Look { divided, wanted, end_of } => {
                out.put_u8(2);
                put_all(&mut out, divided, put_divided);
                put_all(&mut out, wanted, put_wanted);
                put_option(&mut out, end_of.as_ref(), put_begun);
            }
            Body::Close(begun) => {
                out.put_u8(3);
                put_begun(&mut out, begun);
            }
        }
        out.freeze()
    }

    /// Reads one.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        whole(bytes, |left| {
            let (to, number) = (op::actor(left)?, number(left)?);
            let body = match left.try_get_u8().ok()? {
                0 => {
                    let buckets = buckets(left)?;
                    let untold = (0..=u8::MAX).filter(|bucket| !buckets.contains(bucket));
                    let digests = untold.map(|bucket| Some((bucket, digest(left)?))).collect::<Option<_>>()?;
                    let part = vector(left)?;
                    if part.iter().any(|(actor, _)| !buckets.contains(&actor.bucket())) {
                        return None;
                    }
                    Body::Keys(Asked { digests, buckets, part })
                }
                1 => Body::Open,
                2 => Body::Look {
                    divided: all(left, RANGES_MAX, divided)?,
                    wanted: all(left, RANGES_MAX, wanted)?,
                    end_of: option(left, begun)?,
                },
                3 => Body::Close(begun(left)?),
                _ => return None,
            };
            Some(Self { to, number, body })
        })
    }
}

impl Reply {
    /// Its only encoding.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        op::put_actor(&mut out, &self.to);
        put_number(&mut out, self.number);
        match &self.said {
            Said::Differs(buckets) => {
                out.put_u8(0);
                put_buckets(&mut out, buckets);
            }
            Said::Keys { keys, part } => {
                out.put_u8(1);
                put_vector(&mut out, part);
                put_all(&mut out, keys, |out, Told { key, entry, dots }| {
                    put_row(out, key, entry);
                    op::put_dots(out, dots);
                });
            }
            Said::Opened(Opened { by, vector, divided }) => {
                out.put_u8(2);
                op::put_actor(&mut out, by);
                put_vector(&mut out, vector);
                put_all(&mut out, divided, put_divided);
            }
            Said::Looked(Looked { divided, rows }, closed) => {
                out.put_u8(3);
                put_all(&mut out, divided, put_divided);
                put_all(&mut out, rows, |out, Rows { range, rows, rest }| {
                    put_range(out, *range);
                    put_all(out, rows, |out, (key, entry)| put_row(out, key, entry));
                    put_option(out, rest.as_ref(), put_wanted);
                });
                put_option(&mut out, closed.as_ref(), put_closed);
            }
            Said::Closed(closed) => {
                out.put_u8(4);
                put_closed(&mut out, closed);
            }
            Said::Over => out.put_u8(5),
        }
        out.freeze()
    }

    /// Reads one.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        whole(bytes, |left| {
            let (to, number) = (op::actor(left)?, number(left)?);
            let said = match left.try_get_u8().ok()? {
                0 => Said::Differs(buckets(left)?),
                1 => {
                    let part = vector(left)?;
                    let keys = all(left, KEYS_MAX, |left| {
                        let (key, entry) = named(left)?;
                        Some(Told { key, entry, dots: op::dots(left)? })
                    })?;
                    Said::Keys { keys, part }
                }
                2 => Said::Opened(Opened {
                    by: op::actor(left)?,
                    vector: vector(left)?,
                    divided: all(left, RANGES_MAX, divided)?,
                }),
                3 => {
                    let looked = Looked { divided: all(left, RANGES_MAX, divided)?, rows: all_rows(left)? };
                    Said::Looked(looked, option(left, closed)?)
                }
                4 => Said::Closed(closed(left)?),
                5 => Said::Over,
                _ => return None,
            };
            Some(Self { to, number, said })
        })
    }
}

impl Digest {
    /// Its only encoding.
    pub fn encode(&self) -> [u8; 2 * DIGEST_LEN] {
        let mut bytes = [0; 2 * DIGEST_LEN];
        bytes[..DIGEST_LEN].copy_from_slice(&self.vector);
        bytes[DIGEST_LEN..].copy_from_slice(&self.rows);
        bytes
    }

    /// Reads one.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        whole(bytes, |left| Some(Self { vector: digest(left)?, rows: digest(left)? }))
    }
}

/// Reads something that all of the bytes are.
fn whole<T>(mut bytes: Bytes, read: impl FnOnce(&mut Bytes) -> Option<T>) -> Result<T, Malformed> {
    read(&mut bytes).filter(|_| bytes.is_empty()).ok_or(Malformed)
}

fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn number(left: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = left.try_get_u8().ok()?;
        let bits = u64::from(byte & 0x7f);
        // Bits beyond the last, and a last byte that says nothing.
        if bits << shift >> shift != bits || byte == 0 && shift > 0 {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn put_all<T>(out: &mut BytesMut, all: &[T], put: impl Fn(&mut BytesMut, &T)) {
    put_number(out, all.len() as u64);
    all.iter().for_each(|one| put(out, one));
}

fn all<T>(left: &mut Bytes, max: usize, mut read: impl FnMut(&mut Bytes) -> Option<T>) -> Option<Vec<T>> {
    let count = number(left)?;
    // Each is a byte at least.
    if count > left.len().min(max) as u64 {
        return None;
    }
    (0..count).map(|_| read(left)).collect()
}

fn digest(left: &mut Bytes) -> Option<[u8; DIGEST_LEN]> {
    let mut digest = [0; DIGEST_LEN];
    left.try_copy_to_slice(&mut digest).ok()?;
    Some(digest)
}

fn put_buckets(out: &mut BytesMut, buckets: &BTreeSet<u8>) {
    let mut bits = [0; BUCKETS / 8];
    buckets.iter().for_each(|bucket| bits[usize::from(bucket / 8)] |= 1 << (bucket % 8));
    out.put_slice(&bits);
}

fn buckets(left: &mut Bytes) -> Option<BTreeSet<u8>> {
    let mut bits = [0_u8; BUCKETS / 8];
    left.try_copy_to_slice(&mut bits).ok()?;
    Some((0..=u8::MAX).filter(|bucket| bits[usize::from(bucket / 8)] >> (bucket % 8) & 1 == 1).collect())
}

fn put_vector(out: &mut BytesMut, vector: &Vector) {
    let all: Vec<(&Actor, &Seen)> = vector.iter().collect();
    let of_peers: Vec<&[(&Actor, &Seen)]> = all.chunk_by(|(one, _), (next, _)| one.peer == next.peer).collect();
    put_all(out, &of_peers, |out, of_peer| {
        out.put_slice(&of_peer[0].0.peer.0);
        put_all(out, of_peer, |out, (actor, seen)| {
            out.put_u64_le(actor.epoch);
            put_number(out, seen.base());
            put_number(out, seen.extras().len() as u64);
            let mut last = seen.base() + 1;
            for counter in seen.extras() {
                put_number(out, counter - last);
                last = counter;
            }
        });
    });
}

fn vector(left: &mut Bytes) -> Option<Vector> {
    let mut all_seen: Vec<(Actor, Seen)> = Vec::new();
    let mut numbers = 0_u64;
    for _ in 0..number(left)? {
        let mut peer = [0; 32];
        left.try_copy_to_slice(&mut peer).ok()?;
        let peer = Name(peer);
        if all_seen.last().is_some_and(|(last, _)| last.peer >= peer) {
            return None;
        }
        for n in 0..number(left)? {
            let actor = Actor { peer, epoch: left.try_get_u64_le().ok()? };
            if n > 0 && all_seen.last().is_some_and(|(last, _)| *last >= actor) {
                return None;
            }
            let base = number(left)?;
            let mut last = base.checked_add(1)?;
            let mut extras = Vec::new();
            let count = number(left)?;
            numbers = numbers.checked_add(1)?.checked_add(count).filter(|numbers| *numbers <= NUMBERS_MAX)?;
            for _ in 0..count {
                let counter = last.checked_add(number(left)?)?;
                extras.push(counter);
                last = counter;
            }
            all_seen.push((actor, Seen::new(base, &extras)?));
        }
        // A peer of which nothing was seen is not told.
        if all_seen.last().is_none_or(|(last, _)| last.peer != peer) {
            return None;
        }
    }
    Some(Vector::of(all_seen))
}

fn put_range(out: &mut BytesMut, range: Range) {
    out.put_u8(range.depth() as u8);
    put_number(out, range.prefix());
}

fn range(left: &mut Bytes) -> Option<Range> {
    let depth = left.try_get_u8().ok()?;
    Range::of_prefix(number(left)?, u32::from(depth))
}

/// What parts come to in which there is nothing: not sent.
const EMPTY: [u8; DIGEST_LEN] = [0; DIGEST_LEN];

fn put_divided(out: &mut BytesMut, divided: &Divided) {
    put_range(out, divided.range);
    let held = divided.parts.iter().enumerate().filter(|(_, part)| **part != EMPTY);
    out.put_u8(held.clone().fold(0, |bits, (n, _)| bits | 1 << n));
    held.for_each(|(_, part)| out.put_slice(part));
}

fn divided(left: &mut Bytes) -> Option<Divided> {
    let (range, held) = (range(left)?, left.try_get_u8().ok().filter(|bits| *bits < 1 << PARTS)?);
    let mut parts = [EMPTY; PARTS];
    for (n, part) in parts.iter_mut().enumerate() {
        if held >> n & 1 == 1 {
            *part = digest(left).filter(|part| *part != EMPTY)?;
        }
    }
    Some(Divided { range, parts })
}

fn put_begun(out: &mut BytesMut, begun: &Begun) {
    op::put_actor(out, &begun.by);
    put_vector(out, &begun.opened);
}

fn begun(left: &mut Bytes) -> Option<Begun> {
    Some(Begun { by: op::actor(left)?, opened: vector(left)? })
}

fn put_closed(out: &mut BytesMut, closed: &Closed) {
    put_vector(out, &closed.vector);
    put_all(out, &closed.changed, |out, (key, entry)| put_row(out, key, entry));
}

fn closed(left: &mut Bytes) -> Option<Closed> {
    Some(Closed { vector: vector(left)?, changed: all(left, KEYS_MAX, named)? })
}

fn put_option<T>(out: &mut BytesMut, value: Option<&T>, put: impl Fn(&mut BytesMut, &T)) {
    out.put_u8(u8::from(value.is_some()));
    value.into_iter().for_each(|value| put(out, value));
}

fn option<T>(left: &mut Bytes, read: impl Fn(&mut Bytes) -> Option<T>) -> Option<Option<T>> {
    match left.try_get_u8().ok()? {
        0 => Some(None),
        1 => read(left).map(Some),
        _ => None,
    }
}

fn put_wanted(out: &mut BytesMut, wanted: &Wanted) {
    put_range(out, wanted.range);
    put_key(out, wanted.after.as_ref());
}

fn wanted(left: &mut Bytes) -> Option<Wanted> {
    Some(Wanted { range: range(left)?, after: key(left)? })
}

/// No key is empty, so that nothing is none.
fn put_key(out: &mut BytesMut, key: Option<&Key>) {
    let bytes = key.map(|key| &key.as_bytes()[..]).unwrap_or_default();
    put_number(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn key(left: &mut Bytes) -> Option<Option<Key>> {
    match usize::try_from(number(left)?).ok()? {
        0 => Some(None),
        len if len > KEY_LEN_MAX => None,
        len => Some(Some(Key::new(op::split(left, len)?).ok()?)),
    }
}

fn put_row(out: &mut BytesMut, key: &Key, entry: &Entry) {
    put_key(out, Some(key));
    row::put(out, entry);
}

fn named(left: &mut Bytes) -> Option<(Key, Entry)> {
    Some((key(left)??, row::take(left)?))
}

/// Rows of ranges, of all of them together no more than so many.
fn all_rows(left: &mut Bytes) -> Option<Vec<Rows>> {
    let mut keys_left = KEYS_MAX;
    all(left, RANGES_MAX, |left| {
        let rows = rows(left, keys_left)?;
        keys_left -= rows.rows.len();
        Some(rows)
    })
}

fn rows(left: &mut Bytes, keys_max: usize) -> Option<Rows> {
    let range = range(left)?;
    let rows = all(left, keys_max, named)?;
    let rest = match left.try_get_u8().ok()? {
        0 => None,
        1 => Some(wanted(left)?),
        _ => return None,
    };
    Some(Rows { range, rows, rest })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dot::{Dot, Dots};
    use super::super::entry::Sibling;
    use super::*;

    fn actors() -> impl Strategy<Value = Actor> {
        (0..3_u8, 0..5_u64).prop_map(|(peer, epoch)| Actor { peer: Name([peer; 32]), epoch })
    }

    fn dots() -> impl Strategy<Value = Dots> {
        proptest::collection::vec((actors(), 1..9_u64), 0..4)
            .prop_map(|dots| dots.into_iter().map(|(actor, counter)| Dot { actor, counter }).collect())
    }

    fn vectors() -> impl Strategy<Value = Vector> {
        proptest::collection::vec((actors(), 1..9_u64), 0..30)
            .prop_map(|dots| dots.into_iter().map(|(actor, counter)| Dot { actor, counter }).collect())
    }

    fn keys() -> impl Strategy<Value = Key> {
        "[a-z]{1,3}".prop_map(|text| Key::new(text).expect("a key"))
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let sibling = (actors(), 1..9_u64, any::<Vec<u8>>(), dots()).prop_map(|(actor, counter, value, replaces)| {
            Sibling { dot: Dot { actor, counter }, value: value.into(), replaces }
        });
        (proptest::collection::vec(sibling, 0..3), dots()).prop_map(|(mut siblings, context)| {
            siblings.sort_by_key(|sibling| sibling.dot);
            siblings.dedup_by_key(|sibling| sibling.dot);
            Entry::from_parts(siblings, context)
        })
    }

    fn ranges() -> impl Strategy<Value = Range> {
        (0..=32_u32, any::<u64>()).prop_map(|(depth, bits)| {
            let prefix = if depth == 0 { 0 } else { bits >> (64 - 2 * depth) };
            Range::of_prefix(prefix, depth).expect("a range")
        })
    }

    fn divided() -> impl Strategy<Value = Vec<Divided>> {
        let one = (ranges(), any::<[u8; DIGEST_LEN]>(), any::<[bool; PARTS]>());
        let one = one.prop_map(|(range, digest, held)| {
            let parts = held.map(|is_held| if is_held { digest } else { [0; DIGEST_LEN] });
            Divided { range, parts }
        });
        proptest::collection::vec(one, 0..3)
    }

    fn wanted() -> impl Strategy<Value = Wanted> {
        (ranges(), proptest::option::of(keys())).prop_map(|(range, after)| Wanted { range, after })
    }

    fn begun() -> impl Strategy<Value = Begun> {
        (actors(), vectors()).prop_map(|(by, opened)| Begun { by, opened })
    }

    fn closed() -> impl Strategy<Value = Closed> {
        (vectors(), rows()).prop_map(|(vector, changed)| Closed { vector, changed })
    }

    fn bodies() -> impl Strategy<Value = Body> {
        let asked =
            (any::<BTreeSet<u8>>(), vectors(), any::<[u8; DIGEST_LEN]>()).prop_map(|(mut buckets, part, digest)| {
                buckets.extend(part.iter().map(|(actor, _)| actor.bucket()));
                let untold = (0..=u8::MAX).filter(|bucket| !buckets.contains(bucket));
                Body::Keys(Asked { digests: untold.map(|bucket| (bucket, digest)).collect(), buckets, part })
            });
        let look = (divided(), proptest::collection::vec(wanted(), 0..3));
        prop_oneof![
            asked,
            Just(Body::Open),
            (look, proptest::option::of(begun())).prop_map(|((divided, wanted), end_of)| Body::Look {
                divided,
                wanted,
                end_of
            }),
            begun().prop_map(Body::Close),
        ]
    }

    fn rows() -> impl Strategy<Value = Vec<(Key, Entry)>> {
        proptest::collection::vec((keys(), entries()), 0..3)
    }

    fn said() -> impl Strategy<Value = Said> {
        let told = (keys(), entries(), dots()).prop_map(|(key, entry, dots)| Told { key, entry, dots });
        let of_ranges = (ranges(), rows(), proptest::option::of(wanted()));
        let of_ranges = of_ranges.prop_map(|(range, rows, rest)| Rows { range, rows, rest });
        prop_oneof![
            any::<BTreeSet<u8>>().prop_map(Said::Differs),
            (proptest::collection::vec(told, 0..3), vectors()).prop_map(|(keys, part)| Said::Keys { keys, part }),
            (actors(), vectors(), divided()).prop_map(|(by, vector, divided)| Said::Opened(Opened {
                by,
                vector,
                divided
            })),
            (divided(), proptest::collection::vec(of_ranges, 0..3), proptest::option::of(closed()))
                .prop_map(|(divided, rows, closed)| Said::Looked(Looked { divided, rows }, closed)),
            closed().prop_map(Said::Closed),
            Just(Said::Over),
        ]
    }

    /// A message that is cut short, goes on, or has a bit changed is none, or has one encoding all the same.
    fn check<T>(bytes: &Bytes, at: usize, read: fn(Bytes) -> Result<T, Malformed>, write: fn(&T) -> Bytes) {
        let at = at % bytes.len();
        assert!(read(bytes.slice(..at)).is_err(), "cut short");
        let mut longer = BytesMut::from(&bytes[..]);
        longer.put_u8(0);
        assert!(read(longer.freeze()).is_err(), "goes on");
        let mut changed = BytesMut::from(&bytes[..]);
        changed[at] ^= 1 << (at % 8);
        let changed = changed.freeze();
        if let Ok(read) = read(changed.clone()) {
            assert_eq!(write(&read), changed);
        }
    }

    proptest! {
        #[test]
        fn messages_have_one_encoding(to in actors(), number: u64, body in bodies(), said in said(), at: usize) {
            let request = Request { to, number, body };
            let bytes = request.encode();
            prop_assert_eq!(&Request::decode(bytes.clone()), &Ok(request));
            check(&bytes, at, Request::decode, Request::encode);
            let reply = Reply { to, number, said };
            let bytes = reply.encode();
            prop_assert_eq!(&Reply::decode(bytes.clone()), &Ok(reply));
            check(&bytes, at, Reply::decode, Reply::encode);
        }

        #[test]
        fn bytes_of_a_stranger_never_panic(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = (Request::decode(bytes.clone()), Reply::decode(bytes.clone()), Digest::decode(bytes));
        }

        #[test]
        fn numbers_have_one_encoding(wanted: u64) {
            let mut out = BytesMut::new();
            put_number(&mut out, wanted);
            let mut left = out.clone().freeze();
            prop_assert_eq!((number(&mut left), left.len()), (Some(wanted), 0));
            // The same with a byte more.
            if let Some(last) = out.last_mut() {
                *last |= 0x80;
            }
            out.put_u8(0);
            prop_assert_eq!(number(&mut out.freeze()), None);
        }
    }

    /// What is decoded takes many times its bytes.
    #[test]
    fn what_has_too_many_parts_is_no_message() {
        let (to, number) = (Actor { peer: Name([1; 32]), epoch: 1 }, 1);
        let divided = |count: usize| vec![Divided { range: Range::ALL, parts: [EMPTY; PARTS] }; count];
        let extras = |count: u64| {
            let extras: Vec<u64> = (0..count).map(|n| 2 * n + 3).collect();
            Vector::of(Seen::new(1, &extras).map(|seen| (to, seen)))
        };
        let opened = |vector, ranges| Said::Opened(Opened { by: to, vector, divided: divided(ranges) });
        let row = |n: usize| (Key::new(format!("{n}")).expect("a key"), Entry::default());
        let rows = |count: usize| Rows { range: Range::ALL, rows: (0..count).map(row).collect(), rest: None };
        let looked = |rows| Said::Looked(Looked { divided: Vec::new(), rows }, None);
        for (said, is_message) in [
            (opened(extras(NUMBERS_MAX - 1), RANGES_MAX), true),
            (opened(extras(NUMBERS_MAX), 0), false),
            (opened(extras(1), RANGES_MAX + 1), false),
            (looked(vec![rows(KEYS_MAX - 1), rows(1)]), true),
            (looked(vec![rows(KEYS_MAX), rows(1)]), false),
        ] {
            let bytes = Reply { to, number, said }.encode();
            assert_eq!(Reply::decode(bytes).is_ok(), is_message);
        }
    }
}
