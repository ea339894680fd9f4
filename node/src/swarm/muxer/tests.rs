use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::*;

/// Long enough for all that can move to have moved; time is virtual.
const MOMENT: Duration = Duration::from_millis(100);

type Server = Muxer<Compat<DuplexStream>>;

/// A muxer, and the other end of its socket, which is spoken by hand.
async fn server(unread: &Arc<Unread>) -> (Server, DuplexStream) {
    let (near, far) = tokio::io::duplex(16 << 10);
    let muxer = Yamux::new(unread.clone()).upgrade_inbound(near.compat(), "/yamux/1.0.0").await.expect("no handshake");
    (muxer, far)
}

async fn inbound(muxer: &mut Server) -> Result<Stream, yamux::ConnectionError> {
    std::future::poll_fn(|cx| Pin::new(&mut *muxer).poll_inbound(cx)).await
}

/// A frame of data, which opens the stream where it says so.
fn data(stream: u32, opens: bool, len: usize) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, u8::from(opens)];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&(len as u32).to_be_bytes());
    bytes.resize(bytes.len() + len, 7);
    bytes
}

/// Writes frames until nothing is taken any more; returns how many were.
async fn write_all_that_goes(far: &mut DuplexStream, frames: impl Iterator<Item = Vec<u8>>) -> usize {
    let mut written = 0;
    for frame in frames {
        match timeout(MOMENT, far.write_all(&frame)).await {
            Ok(Ok(())) => written += 1,
            Ok(Err(_)) | Err(_) => break,
        }
    }
    written
}

/// Accepts streams and reads nothing of them, until the connection ends.
async fn hoard(muxer: &mut Server) -> (Vec<Stream>, yamux::ConnectionError) {
    let mut streams = Vec::new();
    loop {
        match inbound(muxer).await {
            Ok(stream) => streams.push(stream),
            Err(error) => return (streams, error),
        }
    }
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_leave_nothing_unread() {
    let unread = Arc::<Unread>::default();
    let (near, far) = tokio::io::duplex(64 << 10);
    let mut server = Yamux::new(unread.clone()).upgrade_inbound(near.compat(), "").await.expect("no handshake");
    let mut client = Yamux::new(unread.clone()).upgrade_outbound(far.compat(), "").await.expect("no handshake");
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let ledger = server.ledger.clone();
    let answer = async {
        let mut stream = inbound(&mut server).await.expect("a stream");
        let drive = async { while inbound(&mut server).await.is_ok() {} };
        let echo = async {
            let mut bytes = vec![0; sent.len()];
            stream.read_exact(&mut bytes).await.expect("all of it");
            stream.write_all(&bytes).await.expect("taken");
            stream.close().await.expect("closed");
        };
        futures::future::join(drive, echo).await;
    };
    let ask = async {
        let mut stream = std::future::poll_fn(|cx| Pin::new(&mut client).poll_outbound(cx)).await.expect("a stream");
        let drive = async { while std::future::poll_fn(|cx| Pin::new(&mut client).poll_inbound(cx)).await.is_ok() {} };
        let echoed = async {
            stream.write_all(&sent).await.expect("taken");
            stream.flush().await.expect("taken");
            let mut bytes = vec![0; sent.len()];
            stream.read_exact(&mut bytes).await.expect("all of it");
            bytes
        };
        tokio::select! { () = drive => panic!("it ended"), bytes = echoed => bytes }
    };
    let echoed = tokio::select! { () = answer => panic!("it ended"), bytes = ask => bytes };
    assert!(echoed == sent);
    assert_eq!(ledger.unread(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_reads_stays_in_the_socket_and_comes_when_somebody_does() {
    let unread = Arc::<Unread>::default();
    let (mut muxer, mut far) = server(&unread).await;
    let ledger = muxer.ledger.clone();
    let hoarding = tokio::spawn(async move { hoard(&mut muxer).await });
    // Sixty streams, of which each may be sent 256 KiB.
    let frames = (0..60).flat_map(|n| (0..16).map(move |i| data(2 * n + 1, i == 0, 16 << 10)));
    let written = write_all_that_goes(&mut far, frames.clone()).await;
    let taken = ledger.unread();
    assert!((1 << 20..=(1 << 20) + (64 << 10)).contains(&taken), "{taken} bytes after {written} frames");
    assert!(written < 70);
    assert_eq!(unread.pauses.load(std::sync::atomic::Ordering::Relaxed), 1);
    hoarding.abort();
}

#[tokio::test(start_paused = true)]
async fn who_reads_lets_the_rest_come() {
    let unread = Arc::<Unread>::default();
    let (mut muxer, mut far) = server(&unread).await;
    let (streams, mut accepted) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(stream) = inbound(&mut muxer).await {
            let _ = streams.send(stream);
        }
    });
    let frames = (0..60).flat_map(|n| (0..16).map(move |i| data(2 * n + 1, i == 0, 16 << 10)));
    let writing = tokio::spawn(async move {
        for frame in frames {
            far.write_all(&frame).await.expect("taken");
        }
        far
    });
    tokio::time::sleep(MOMENT).await;
    assert!(!writing.is_finished(), "nobody has read yet");
    let read = async {
        let mut read = 0;
        let mut bytes = vec![0; 256 << 10];
        while read < 60 * (256 << 10) {
            let mut stream = accepted.recv().await.expect("a stream");
            stream.read_exact(&mut bytes).await.expect("all of it");
            read += bytes.len();
        }
    };
    timeout(Duration::from_secs(10), read).await.expect("all of it comes");
    writing.await.expect("all was taken");
}

#[tokio::test(start_paused = true)]
async fn frames_of_a_byte_are_counted_for_what_they_take() {
    let unread = Arc::<Unread>::default();
    let (mut muxer, mut far) = server(&unread).await;
    let ledger = muxer.ledger.clone();
    let hoarding = tokio::spawn(async move { hoard(&mut muxer).await });
    // A thousand frames in one write, all on one stream.
    let frames = (0..200).map(|n| (0..1000).flat_map(|i| data(1, n == 0 && i == 0, 1)).collect());
    let written = write_all_that_goes(&mut far, frames).await;
    assert!((15..20).contains(&written), "{written} thousand");
    assert!(ledger.unread() <= (1 << 20) + (64 << 10));
    hoarding.abort();
}

#[tokio::test(start_paused = true)]
async fn many_connections_have_less_each() {
    let unread = Arc::<Unread>::default();
    let mut others = Vec::new();
    for _ in 0..500 {
        others.push(server(&unread).await);
    }
    let (mut muxer, mut far) = server(&unread).await;
    let ledger = muxer.ledger.clone();
    let hoarding = tokio::spawn(async move { hoard(&mut muxer).await });
    write_all_that_goes(&mut far, (0..60).map(|n| data(2 * n + 1, true, 16 << 10))).await;
    assert!(ledger.unread() <= (48 << 10) + (64 << 10), "{}", ledger.unread());
    drop(others);
    hoarding.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_takes_its_bytes_with_it() {
    let unread = Arc::<Unread>::default();
    let (mut muxer, far) = server(&unread).await;
    let ledger = muxer.ledger.clone();
    tokio::spawn(async move { while inbound(&mut muxer).await.is_ok() {} });
    let (mut reads, mut far) = tokio::io::split(far);
    tokio::spawn(async move { tokio::io::copy(&mut reads, &mut tokio::io::sink()).await });
    for n in 0..10_000_u32 {
        let frame = data(2 * n + 1, true, 10_000);
        timeout(Duration::from_secs(1), far.write_all(&frame)).await.expect("nothing is in the way").expect("taken");
    }
    tokio::time::sleep(MOMENT).await;
    assert_eq!(ledger.unread(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_breaks_the_rules_loses_the_connection() {
    let window_update = |stream: u32, credit: u32| {
        let mut bytes = vec![0, 1, 0, 0];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&credit.to_be_bytes());
        bytes
    };
    let too_many: Vec<u8> = (0..65).flat_map(|n| data(2 * n + 1, true, 0)).collect();
    let twice = [data(1, true, 0), data(1, true, 0)].concat();
    let overflow = [data(1, true, 0), window_update(1, u32::MAX), window_update(1, u32::MAX)].concat();
    let beyond_window: Vec<u8> = (0..5).flat_map(|i| data(1, i == 0, 60 << 10)).collect();
    let cases = [
        ("a frame of 1 MiB", data(1, true, 1 << 20)),
        ("a claim of 4 GiB", [&[0, 0, 0, 1, 0, 0, 0, 1], &u32::MAX.to_be_bytes()[..]].concat()),
        ("too many streams", too_many),
        ("a stream of our kind", data(2, true, 0)),
        ("a stream twice", twice),
        ("windows of 8 GiB", overflow),
        ("more than the window", beyond_window),
        ("a version that is none", vec![9; 12]),
        ("a type that is none", [&[0, 9], &[0; 10][..]].concat()),
    ];
    for (what, bytes) in cases {
        let (mut muxer, mut far) = server(&Arc::default()).await;
        let ended = tokio::spawn(async move { hoard(&mut muxer).await.1 });
        let _ = timeout(MOMENT, far.write_all(&bytes)).await;
        timeout(Duration::from_secs(5), ended)
            .await
            .unwrap_or_else(|_| panic!("it goes on after {what}"))
            .expect("ended");
    }
}
