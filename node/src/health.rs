//! Whether the node can do its work, as far as it knows by itself. Decides, asks nobody.

use bytesize::ByteSize;
use p2p_api::types::{Health, KvState};
use p2p_dht::tree::GEOMETRY;

use crate::store::{DISK_FREE_MIN, DiskRoom};
use crate::swarm::NetView;

/// Room in the store under which the owner is told, in bytes: soon puts are refused.
const ROOM_LOW: u64 = 64 << 20;

/// Free space of the file system under which the owner is told: soon puts are refused.
const DISK_FREE_LOW: u64 = 2 * DISK_FREE_MIN;

/// Damaged objects that are counted.
pub(crate) const DAMAGED_COUNTED_MAX: u32 = 1000;

/// Said until the next start, when nobody can know any more what was there.
pub(crate) const STORE_LOST: &str = "objects.db was missing or empty when the node started, though this home was used before: what \
                                     it held is not here any more, and comes from other members when it is read";

/// Said while the others do without this node.
const PUT_OUT: &str = "other members have found that this node answers too late too often, and do without it for some minutes: look \
                       at its load and its line";

/// What a node knows about itself.
pub(crate) struct Known<'a> {
    pub(crate) view: &'a NetView,
    /// Bytes that the store still takes, in place of cache where need be; whatever limits them.
    pub(crate) room_left: u64,
    pub(crate) storage_max: u64,
    /// What it held was gone when it started.
    pub(crate) store_lost: bool,
    /// Objects that are damaged and not yet mended, counted up to [`DAMAGED_COUNTED_MAX`].
    pub(crate) damaged: u32,
    /// Where the home is.
    pub(crate) disk: DiskRoom,
    /// Copies of what is put here.
    pub(crate) replicas: u32,
    /// The replicated map.
    pub(crate) map: Map,
}

/// What is known of the replicated map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map {
    pub(crate) state: KvState,
    /// Bytes of its file, and how many those may be.
    pub(crate) len: u64,
    pub(crate) len_max: u64,
}

/// How the node does, and why it is not better, one sentence each; those about single members come last.
pub(crate) fn health(known: &Known<'_>) -> (Health, Vec<String>) {
    let isolated = known.view.isolated || known.view.alive.is_empty() && known.view.expects_others;
    let alone = isolated.then(|| "no other member can be reached".to_owned());
    let away = known.view.put_out.then(|| PUT_OUT.to_owned());
    let lost = known.store_lost.then(|| STORE_LOST.to_owned());
    let too_few = too_few(known).filter(|_| !isolated);
    let troubles = [alone, away, too_few, lost, damage(known), store(known), disk(known), map(known), map_room(known)];
    let troubles: Vec<String> = troubles.into_iter().flatten().collect();
    let health = match (isolated, troubles.is_empty()) {
        (true, _) => Health::Isolated,
        (false, false) => Health::Degraded,
        (false, true) => Health::Ok,
    };
    (health, troubles.into_iter().chain(known.view.reasons.iter().cloned()).collect())
}

/// Members that are away are a trouble once a put cannot have its copies.
fn too_few(known: &Known<'_>) -> Option<String> {
    let here = known.view.alive.len() + 1;
    let wanted = (here + known.view.counts.down as usize).min(known.replicas as usize);
    (here < wanted)
        .then(|| format!("only {here} members can be reached, this one included: too few for {wanted} copies"))
}

fn damage(known: &Known<'_>) -> Option<String> {
    let many = match known.damaged {
        0 => return None,
        1 => "1 object is".to_owned(),
        DAMAGED_COUNTED_MAX.. => format!("{DAMAGED_COUNTED_MAX} objects or more are"),
        some => format!("{some} objects are"),
    };
    Some(format!("{many} damaged on the disk, and no member has sent them again yet: look at the disk"))
}

/// The disk may be what leaves no room; then it is named instead.
fn store(known: &Known<'_>) -> Option<String> {
    let (left, max) = (ByteSize(known.room_left), ByteSize(known.storage_max));
    let by_disk = known.disk.free < DISK_FREE_MIN + ROOM_LOW;
    if by_disk || known.room_left >= ROOM_LOW {
        None
    } else if known.room_left < GEOMETRY.leaf_len {
        Some(format!("the store is full: puts are refused here ({max} may be taken)"))
    } else {
        Some(format!("the store is nearly full: {left} are left of {max}"))
    }
}

fn map(known: &Known<'_>) -> Option<String> {
    match known.map.state {
        KvState::Ok => None,
        KvState::CatchingUp => Some("the map lacks what a neighbour has written some seconds ago".to_owned()),
        KvState::Recovering => Some(
            "the map had lost something on the disk, and is fetching it from other members: look at the disk"
                .to_owned(),
        ),
        KvState::Joining => Some("the map is not here yet: it is fetched from other members".to_owned()),
    }
}

fn map_room(known: &Known<'_>) -> Option<String> {
    let Map { len, len_max, .. } = known.map;
    let max = ByteSize(len_max);
    // A tenth is left for what others write.
    let share = len.saturating_mul(100) / len_max.max(1);
    match share {
        ..80 => None,
        80..90 => Some(format!("the map is nearly full: {} of {max}", ByteSize(len))),
        _ => Some(format!("the map is full: new values are refused here ({max} may be taken: --state-max)")),
    }
}

fn disk(known: &Known<'_>) -> Option<String> {
    let (bytes, least) = (ByteSize(known.disk.free), ByteSize(DISK_FREE_MIN));
    if known.disk.tight {
        Some(format!(
            "the disk has run out: {bytes} are free, and until {least} are, nothing is written here but what frees"
        ))
    } else if known.disk.free < DISK_FREE_MIN
        || (known.disk.free < DISK_FREE_LOW && known.room_left < GEOMETRY.leaf_len)
    {
        Some(format!("the disk is full: {bytes} are free, and puts leave {least}"))
    } else if known.disk.free < DISK_FREE_LOW {
        Some(format!("the disk is nearly full: {bytes} are free, and puts leave {least}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;
    use p2p_api::types::MemberCounts;

    use super::*;
    use crate::membership::Standing;

    /// A view with so many other members, of which so many are here.
    fn view(met: usize, alive: usize) -> NetView {
        let counts = MemberCounts { alive: alive as u32 + 1, down: (met - alive) as u32, ..MemberCounts::default() };
        let alive = (0..alive).map(|_| PeerId::random()).collect();
        let standing = Standing { alive, counts, expects_others: met > 0, ever_met: met > 0, ..Standing::default() };
        NetView { standing, ..NetView::default() }
    }

    fn fine(view: &NetView) -> Known<'_> {
        let disk = DiskRoom { free: 1 << 40, low: false, tight: false, refused: 0 };
        let map = Map { state: KvState::Ok, len: 0, len_max: 1 << 30 };
        let (room_left, storage_max) = (1 << 40, 1000 << 20);
        Known { view, room_left, storage_max, store_lost: false, damaged: 0, disk, replicas: 3, map }
    }

    fn check(known: &Known<'_>, health: Health, named: &str) {
        let (found, reasons) = super::health(known);
        assert_eq!(found, health, "{reasons:?}");
        assert!(
            reasons.iter().any(|reason| reason.contains(named)) || (named.is_empty() && reasons.is_empty()),
            "{reasons:?}"
        );
    }

    #[test]
    fn a_node_that_can_do_its_work_says_so() {
        for (met, alive) in [(0, 0), (1, 1), (4, 4), (4, 2)] {
            check(&fine(&view(met, alive)), Health::Ok, "");
        }
    }

    #[test]
    fn members_that_are_away_count_once_copies_lack() {
        check(&fine(&view(4, 1)), Health::Degraded, "only 2 members");
        check(&fine(&view(1, 0)), Health::Isolated, "no other member");
        check(&Known { replicas: 1, ..fine(&view(4, 1)) }, Health::Ok, "");
    }

    #[test]
    fn a_store_and_a_disk_are_named_before_they_are_full() {
        let view = view(4, 4);
        let disk = |free, tight| DiskRoom { free, tight, ..fine(&view).disk };
        check(&Known { room_left: ROOM_LOW, ..fine(&view) }, Health::Ok, "");
        check(&Known { room_left: ROOM_LOW - 1, ..fine(&view) }, Health::Degraded, "store is nearly full");
        check(&Known { room_left: 1000, ..fine(&view) }, Health::Degraded, "store is full");
        check(&Known { disk: disk(DISK_FREE_LOW - 1, false), ..fine(&view) }, Health::Degraded, "disk is nearly full");
        check(&Known { disk: disk(DISK_FREE_MIN - 1, false), ..fine(&view) }, Health::Degraded, "disk is full");
        let refusing = Known { room_left: 0, disk: disk(DISK_FREE_MIN + 5, false), ..fine(&view) };
        check(&refusing, Health::Degraded, "disk is full");
        check(&Known { disk: disk(5, true), ..fine(&view) }, Health::Degraded, "disk has run out");
    }

    #[test]
    fn damage_is_counted_until_it_is_mended() {
        let view = view(4, 4);
        for (damaged, said) in [(1, "1 object is"), (7, "7 objects are"), (1000, "1000 objects or more are")] {
            check(&Known { damaged, ..fine(&view) }, Health::Degraded, said);
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let mut view = view(4, 0);
        view.standing.reasons = vec!["192.0.2.7 does not answer".into()];
        let (health, reasons) = health(&Known { room_left: 0, ..fine(&view) });
        assert_eq!((health, reasons.len()), (Health::Isolated, 3), "{reasons:?}");
        assert!(reasons[2].contains("does not answer"));
    }
}
