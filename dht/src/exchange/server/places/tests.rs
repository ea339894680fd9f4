use std::net::Ipv4Addr;

use futures::FutureExt;

use super::*;
use crate::testing::peer;

fn host(n: u8) -> Option<IpAddr> {
    Some(Ipv4Addr::new(192, 0, 2, n).into())
}

fn admitted(places: &Arc<Places>, n: u32, host: Option<IpAddr>) -> Place {
    match places.admit(peer(n), host) {
        Admitted::Yes(place) => place,
        Admitted::Instead(_) => panic!("somebody else had to go"),
        Admitted::No => panic!("there is no place"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_at_one_host_has_the_share_of_one_member() {
    let places = Places::new();
    let crowd: Vec<Place> = (0..100).map(|n| admitted(&places, n, host(1))).collect();
    let honest = admitted(&places, 1000, host(2));
    crowd.iter().for_each(|place| place.rights.received.prove());
    honest.rights.received.prove();
    let mut taken = Vec::new();
    let mut turns = Vec::new();
    for place in &crowd {
        taken.extend(place.rights.received.take(1 << 20).now_or_never());
        turns.extend(place.rights.write(1 << 20).now_or_never());
    }
    assert_eq!(taken.len() << 20, RECEIVED_PER_HOST_MAX);
    assert_eq!(turns.len() << 20, WRITTEN_PER_HOST_MAX);
    assert!(honest.rights.received.take(4 << 20).now_or_never().is_some(), "there is room for another host");
    assert!(honest.rights.write(4 << 20).now_or_never().is_some());
    taken.pop();
    assert!(crowd[50].rights.received.take(1 << 20).now_or_never().is_some(), "what is given back can be had again");
}

#[tokio::test(start_paused = true)]
async fn members_of_unknown_hosts_have_shares_of_their_own() {
    let places = Places::new();
    let (one, other) = (admitted(&places, 1, None), admitted(&places, 2, None));
    let _all = one.rights.write(WRITTEN_PER_HOST_MAX).now_or_never().expect("nobody writes");
    assert!(one.rights.write(1).now_or_never().is_none());
    assert!(other.rights.write(1).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_too_fast_waits_with_all_members_of_its_host() {
    let places = Places::new();
    let (one, other, elsewhere) =
        (admitted(&places, 1, host(1)), admitted(&places, 2, host(1)), admitted(&places, 3, host(2)));
    let waits = (0..REQUESTS_PER_SLICE).filter_map(|_| one.rights.asked()).count();
    assert_eq!(waits, 1, "only the last one");
    let until = other.rights.asked().expect("they are together");
    assert!(elsewhere.rights.asked().is_none());
    tokio::time::sleep_until(until).await;
    assert!(other.rights.asked().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_takes_the_place_of_somebody_on_whose_stream_nothing_moves() {
    let places = Places::new();
    let mut all: Vec<Place> = (0..STREAMS_MAX as u32).map(|n| admitted(&places, n, host(1))).collect();
    assert!(matches!(places.admit(peer(9999), host(2)), Admitted::No), "all are fresh, and nobody has two more");
    tokio::time::advance(DISPLACED_IDLE_MIN).await;
    let Admitted::Instead(place) = places.admit(peer(9999), host(2)) else { panic!("somebody goes") };
    let displaced = all.iter().filter(|place| place.displaced().now_or_never().is_some()).count();
    assert_eq!(displaced, 1);
    drop(place);
    all.clear();
    let taken = places.lock();
    assert!(taken.streams.is_empty() && taken.peers.is_empty() && taken.origins.is_empty(), "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn one_peer_has_its_streams_and_no_more() {
    let places = Places::new();
    let mut all: Vec<Place> = (0..STREAMS_PER_PEER_MAX).map(|_| admitted(&places, 1, host(1))).collect();
    assert!(matches!(places.admit(peer(1), host(1)), Admitted::No));
    assert!(matches!(places.admit(peer(2), host(1)), Admitted::Yes(_)));
    all.pop();
    assert!(matches!(places.admit(peer(1), host(1)), Admitted::Yes(_)));
}
