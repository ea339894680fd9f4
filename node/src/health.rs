//! Whether the node can do its work, as far as it knows by itself. Decides, asks nobody.

use bytesize::ByteSize;
use p2p_api::types::Health;
use p2p_dht::hold::FILL_PERCENT_MAX;

use crate::store::DISK_FREE_MIN;
use crate::swarm::NetView;

/// The part of the configured size from which on the owner is told, in percent: soon puts are refused.
const FILL_PERCENT_HIGH: u64 = 90;

/// Free space of the file system under which the owner is told: soon puts are refused.
const DISK_FREE_LOW: u64 = 2 * DISK_FREE_MIN;

/// What a node knows about itself.
pub(crate) struct Known<'a> {
    pub(crate) view: &'a NetView,
    /// Bytes in the store.
    pub(crate) bytes: u64,
    pub(crate) storage_max: u64,
    /// Bytes free where the home is; None if the system does not say.
    pub(crate) disk_free: Option<u64>,
    /// Copies of what is put here.
    pub(crate) replicas: u32,
}

/// How the node does, and why it is not better, one sentence each; those about single members come last.
pub(crate) fn health(known: &Known<'_>) -> (Health, Vec<String>) {
    let isolated = known.view.alive.is_empty() && known.view.expects_others;
    let alone = isolated.then(|| "no other member can be reached".to_owned());
    let troubles: Vec<String> =
        [alone, too_few(known).filter(|_| !isolated), store(known), disk(known)].into_iter().flatten().collect();
    let health = match (isolated, troubles.is_empty()) {
        (true, _) => Health::Isolated,
        (false, false) => Health::Degraded,
        (false, true) => Health::Ok,
    };
    (health, troubles.into_iter().chain(known.view.reasons.iter().cloned()).collect())
}

/// Members that are away are a trouble once a put cannot have its copies.
fn too_few(known: &Known<'_>) -> Option<String> {
    let (here, all) = (known.view.alive.len() + 1, known.view.met + 1);
    let wanted = all.min(known.replicas as usize);
    (here < wanted)
        .then(|| format!("only {here} members can be reached, this one included: too few for {wanted} copies"))
}

fn store(known: &Known<'_>) -> Option<String> {
    let percent = |percent| known.storage_max / 100 * percent;
    let (bytes, max) = (ByteSize(known.bytes), ByteSize(known.storage_max));
    if known.bytes >= percent(FILL_PERCENT_MAX) {
        Some(format!("the store is full: puts are refused here ({bytes} of {max})"))
    } else if known.bytes >= percent(FILL_PERCENT_HIGH) {
        Some(format!("the store is nearly full: {bytes} of {max}"))
    } else {
        None
    }
}

fn disk(known: &Known<'_>) -> Option<String> {
    let free = known.disk_free.filter(|free| *free < DISK_FREE_LOW)?;
    let (bytes, least) = (ByteSize(free), ByteSize(DISK_FREE_MIN));
    Some(if free < DISK_FREE_MIN {
        format!("the disk is full: {bytes} are free, and puts leave {least}")
    } else {
        format!("the disk is nearly full: {bytes} are free, and puts leave {least}")
    })
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;

    /// A view with so many other members, of which so many can be reached.
    fn view(met: usize, alive: usize) -> NetView {
        let alive = (0..alive).map(|_| PeerId::random()).collect();
        NetView { alive, met, expects_others: met > 0, ever_met: met > 0, ..NetView::default() }
    }

    fn fine(view: &NetView) -> Known<'_> {
        Known { view, bytes: 0, storage_max: 1000 << 20, disk_free: Some(1 << 40), replicas: 3 }
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
        check(&Known { bytes: 899 << 20, ..fine(&view) }, Health::Ok, "");
        check(&Known { bytes: 900 << 20, ..fine(&view) }, Health::Degraded, "store is nearly full");
        check(&Known { bytes: 950 << 20, ..fine(&view) }, Health::Degraded, "store is full");
        check(&Known { disk_free: Some(DISK_FREE_LOW - 1), ..fine(&view) }, Health::Degraded, "disk is nearly full");
        check(&Known { disk_free: Some(DISK_FREE_MIN - 1), ..fine(&view) }, Health::Degraded, "disk is full");
        check(&Known { disk_free: None, ..fine(&view) }, Health::Ok, "");
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let view = NetView { reasons: vec!["192.0.2.7 does not answer".into()], ..view(4, 0) };
        let (health, reasons) = health(&Known { bytes: 950 << 20, disk_free: Some(0), ..fine(&view) });
        assert_eq!((health, reasons.len()), (Health::Isolated, 4), "{reasons:?}");
        assert!(reasons[3].contains("does not answer"));
    }
}
