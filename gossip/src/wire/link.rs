//! A link: one stream between two peers, used for long, with hello, credit and a watchdog.
//!
//! Each side grants the other a number of bytes it will hold ([`Hello::credit`]) and gives them back as frames are
//! consumed. A side that sends more is cut off; so what a peer can make us hold is bounded, and the reading side never has
//! to stop reading. That it never stops is what keeps two sides that push at once from waiting for each other for ever
//! (rust-yamux#227). Whatever still does not move for [`LinkConfig::stall`] ends the link, and the caller opens another.
//!
//! Wire types: 0 hello, 1 credit. The rest belongs to the protocol.

mod shared;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::frame::{self, Cap, Frame, FrameError, Header, KIND_FIRST_FREE, RATE_MIN};
use super::hello::{Hello, Versions};
use super::room::{Direction, SMALL_COST_MAX, Tenant};
use super::{DecodeError, decode, encode};

use shared::Held;
pub(super) use shared::Shared;

const KIND_HELLO: u8 = 0;
const KIND_CREDIT: u8 = 1;

/// Longest wait for the other side's hello.
pub const HELLO_TIME_MAX: Duration = Duration::from_secs(10);

/// Least credit a side may grant, in bytes: it must hold the longest frame of any protocol.
pub const CREDIT_MIN: u32 = 2 << 20;

/// Most credit a side can hold, in bytes; more from a peer is a lie or a mistake.
pub const CREDIT_MAX: u32 = 256 << 20;

/// Least credit that is given at a time, in bytes: a frame for each byte would cost more than it gives.
pub const CREDIT_STEP_MIN: u32 = CREDIT_MIN / 8;

/// Frames of unknown, ignorable types that a link may carry beyond those that mean something.
pub const NOISE_MAX: u64 = 256;

/// Frames of our own that wait for their turn to be written.
const SEND_QUEUE_LEN: usize = 2;

/// How a link of one protocol behaves.
#[derive(Clone, Copy, Debug)]
pub struct LinkConfig {
    /// What we say about ourselves.
    pub hello: Hello,
    /// How long frames of each type of the protocol may be; None for unknown types.
    pub caps: fn(u8) -> Option<Cap>,
    /// Longest time without any progress of a frame that we want to send.
    pub stall: Duration,
}

/// Why a link ended or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other side is in another cluster.
    #[error("the peer is in another cluster")]
    OtherCluster,
    /// No version is spoken by both.
    #[error("incompatible: the peer speaks versions {0:?}")]
    Incompatible(Versions),
    /// No hello in time.
    #[error("the peer said no hello")]
    Silent,
    /// The first frame was not a hello, or one came later.
    #[error("the peer said hello at the wrong time or with a useless credit")]
    BadHello,
    /// It sent more than it had credit for.
    #[error("the peer sent more than it was allowed to")]
    Overrun,
    /// It granted more credit than there can be.
    #[error("the peer granted {0} bytes of credit")]
    BadCredit(u32),
    /// It sent frames that mean nothing, and little else.
    #[error("the peer makes noise")]
    Noise,
    /// It left others without room for what it did not send to the end, or did not read.
    #[error("the peer holds room that others wait for, and does nothing")]
    Hoarding,
    /// Nothing of ours moved for too long.
    #[error("nothing could be sent for {0:?}")]
    Stalled(Duration),
    /// A frame was not acceptable.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A head was not an encoding.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The sending side; clones send in turn. The stream is closed for writing when the last one is gone.
#[derive(Clone)]
pub struct Sender {
    queue: mpsc::Sender<Frame>,
    shared: Arc<Shared>,
}

/// The receiving side. Dropping it ends the link.
pub struct Receiver {
    queue: mpsc::Receiver<Received>,
    shared: Arc<Shared>,
}

/// A frame and the credit it holds, which goes back to the peer when this is dropped.
pub struct Received {
    /// The frame.
    pub frame: Frame,
    held: Held,
}

impl Received {
    /// Separates the frame from its credit, for a consumer that keeps the bytes under a budget of its own.
    pub fn into_frame(self) -> Frame {
        drop(self.held);
        self.frame
    }
}

/// Both sides of a link and what was agreed.
pub struct Link {
    /// Sends frames.
    pub sender: Sender,
    /// Receives them.
    pub receiver: Receiver,
    /// The version to speak.
    pub version: u16,
    /// What the peer said about itself.
    pub remote: Hello,
}

/// The link has ended; [`Sender::reason`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link has ended")]
pub struct Closed;

impl Link {
    /// Exchanges hellos and starts the two tasks that move frames.
    ///
    /// # Errors
    /// When the peer is silent, of another cluster or version, or talks nonsense. The stream is dropped.
    pub async fn open<S>(stream: S, config: LinkConfig) -> Result<Link, LinkError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::open_as(stream, config, None).await
    }

    /// [`Self::open`] for a peer that gets only so much room for what it sends.
    ///
    /// # Errors
    /// As there.
    pub async fn open_as<S>(stream: S, config: LinkConfig, tenant: Option<Tenant>) -> Result<Link, LinkError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut reader, mut writer) = stream.split();
        let remote = timeout(HELLO_TIME_MAX, exchange_hellos(&mut reader, &mut writer, &config.hello))
            .await
            .map_err(|_elapsed| LinkError::Silent)??;
        if remote.cluster != config.hello.cluster {
            return Err(LinkError::OtherCluster);
        }
        let version = config.hello.versions.common(remote.versions).ok_or(LinkError::Incompatible(remote.versions))?;
        if !(CREDIT_MIN..=CREDIT_MAX).contains(&remote.credit) {
            return Err(LinkError::BadHello);
        }
        let shared = Shared::new(config.hello.credit, remote.credit, tenant.as_ref());
        let (send_queue, to_send) = mpsc::channel(SEND_QUEUE_LEN);
        // Never full: the peer's credit runs out first.
        let received_max = config.hello.credit as usize / frame::cost(0, 0) + 1;
        let (received, receive_queue) = mpsc::channel(received_max);
        tokio::spawn(supervise(shared.clone(), write_frames(writer, to_send, shared.clone(), config.stall)));
        tokio::spawn(supervise(shared.clone(), read_frames(reader, received, shared.clone(), config.caps, tenant)));
        Ok(Link {
            sender: Sender { queue: send_queue, shared: shared.clone() },
            receiver: Receiver { queue: receive_queue, shared },
            version,
            remote,
        })
    }
}

/// A place in the queue of frames to send.
pub struct Place<'a>(mpsc::Permit<'a, Frame>);

impl Place<'_> {
    /// Fills the place.
    pub fn send(self, frame: Frame) {
        debug_assert!(frame.kind >= KIND_FIRST_FREE, "types below {KIND_FIRST_FREE} belong to the link");
        self.0.send(frame);
    }
}

impl Sender {
    /// Waits for a place in the queue, so that what must happen together with sending can.
    ///
    /// # Errors
    /// [`Closed`] when the link has ended.
    pub async fn reserve(&self) -> Result<Place<'_>, Closed> {
        tokio::select! {
            () = self.shared.ended.notified_once() => Err(Closed),
            place = self.queue.reserve() => place.map(Place).map_err(|_closed| Closed),
        }
    }

    /// Queues a frame; waits while the queue is full.
    ///
    /// # Errors
    /// [`Closed`] when the link has ended; whether earlier frames arrived is then unknown.
    pub async fn send(&self, frame: Frame) -> Result<(), Closed> {
        self.reserve().await?.send(frame);
        Ok(())
    }

    /// Why the link ended, once it has; None for a clean end and while it lives.
    pub fn reason(&self) -> Option<&LinkError> {
        self.shared.reason.get()
    }

    /// Ends the link now, whatever is under way.
    pub fn abort(&self) {
        self.shared.ended.set();
    }

    /// Waits until the link has ended.
    pub async fn ended(&self) {
        self.shared.ended.notified_once().await;
    }

    /// Bytes of payload sent and received so far, and one for each frame of the protocol, for a watchdog that asks whether
    /// anything moves. What a peer sends to no purpose does not count.
    pub fn moved(&self) -> u64 {
        self.shared.moved.load(Ordering::Relaxed)
    }

    /// How long nothing has moved, either way.
    pub fn idle(&self) -> Duration {
        self.shared.idle(Direction::Incoming).min(self.shared.idle(Direction::Outgoing))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Receiver {
    /// The next frame; None at the end of the link.
    pub async fn recv(&mut self) -> Option<Received> {
        let mut received = self.queue.recv().await?;
        received.held.settled();
        Some(received)
    }

    /// Frames of unknown, ignorable types that were thrown away so far.
    pub fn skipped(&self) -> u64 {
        self.shared.skipped.load(Ordering::Relaxed)
    }

    /// Why the link ended, once it has; None for a clean end and while it lives.
    pub fn reason(&self) -> Option<&LinkError> {
        self.shared.reason.get()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.ended.set();
    }
}

/// Runs one direction until it ends; an error or the end of reading ends the other direction too.
async fn supervise(shared: Arc<Shared>, task: impl Future<Output = Result<Flow, LinkError>>) {
    tokio::select! {
        () = shared.ended.notified_once() => {}
        result = task => match result {
            Ok(Flow::HalfClosed) => {}
            Ok(Flow::Ended) => shared.ended.set(),
            Err(error) => shared.end(error),
        }
    }
}

/// How a direction ended when nothing went wrong.
enum Flow {
    /// We have said all we have to say; the peer may still answer.
    HalfClosed,
    /// The peer has said all.
    Ended,
}

async fn exchange_hellos<S>(
    reader: &mut ReadHalf<S>,
    writer: &mut WriteHalf<S>,
    hello: &Hello,
) -> Result<Hello, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ours = Frame::new(KIND_HELLO, encode(hello), Default::default());
    let send = async {
        frame::write(writer, &ours, drop).await?;
        writer.flush().await
    };
    let receive = async {
        let header = frame::read_header(reader, wire_cap).await?.ok_or(LinkError::BadHello)?;
        if header.kind != KIND_HELLO || header.skipped {
            return Err(LinkError::BadHello);
        }
        Ok(frame::read_body(reader, header, drop).await?)
    };
    let (sent, received) = futures::future::join(send, receive).await;
    sent.map_err(FrameError::from)?;
    Ok(decode(&received?.head)?)
}

/// Caps of the link's own types.
fn wire_cap(kind: u8) -> Option<Cap> {
    match kind {
        KIND_HELLO => Some(Cap { head: 64, payload: 0 }),
        KIND_CREDIT => Some(Cap { head: 8, payload: 0 }),
        _ => None,
    }
}

async fn read_frames<S>(
    mut reader: ReadHalf<S>,
    queue: mpsc::Sender<Received>,
    shared: Arc<Shared>,
    caps: fn(u8) -> Option<Cap>,
    tenant: Option<Tenant>,
) -> Result<Flow, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let caps = |kind| if kind < KIND_FIRST_FREE { wire_cap(kind) } else { caps(kind) };
    while let Some(header) = frame::read_header(&mut reader, caps).await? {
        match header.kind {
            KIND_HELLO => return Err(LinkError::BadHello),
            KIND_CREDIT => {
                let frame = frame::read_body(&mut reader, header, drop).await?;
                add_credit(&shared, decode(&frame.head)?)?;
            }
            _ => read_one(&mut reader, header, &queue, &shared, tenant.as_ref()).await?,
        }
    }
    Ok(Flow::Ended)
}

async fn read_one<S>(
    reader: &mut ReadHalf<S>,
    header: Header,
    queue: &mpsc::Sender<Received>,
    shared: &Arc<Shared>,
    tenant: Option<&Tenant>,
) -> Result<(), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Charged before a byte is allocated.
    let cost = frame::cost(header.head_len, header.payload_len);
    let mut held = shared.charge(cost)?;
    if let Some(tenant) = tenant.filter(|_| cost > SMALL_COST_MAX) {
        held.put_in(tenant.take(cost).await);
    }
    let frame = frame::read_body(reader, header, |bytes| {
        if !header.skipped {
            shared.count(Direction::Incoming, bytes);
        }
    })
    .await?;
    if header.skipped {
        return shared.skip(header.kind);
    }
    shared.understand();
    shared.count(Direction::Incoming, 1);
    // Full is impossible while the credit holds; closed means that nobody listens any more, and that ends the link.
    queue.try_send(Received { frame, held }).map_err(|_refused| LinkError::Overrun)
}

fn add_credit(shared: &Shared, bytes: u32) -> Result<(), LinkError> {
    if bytes < CREDIT_STEP_MIN || shared.credit.available_permits() + bytes as usize > CREDIT_MAX as usize {
        return Err(LinkError::BadCredit(bytes));
    }
    shared.credit.add_permits(bytes as usize);
    Ok(())
}

async fn write_frames<S>(
    mut writer: WriteHalf<S>,
    mut queue: mpsc::Receiver<Frame>,
    shared: Arc<Shared>,
    stall: Duration,
) -> Result<Flow, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let frame = tokio::select! {
            () = shared.owed_enough.notified() => {
                give_back(&mut writer, &shared, stall).await?;
                continue;
            }
            frame = queue.recv() => frame,
        };
        let Some(frame) = frame else { break };
        let written = async {
            wait_for_credit(&mut writer, &shared, &frame, stall).await?;
            write_in_time(&mut writer, &shared, &frame, stall).await
        };
        if let Err(error) = written.await {
            // Before the frame goes, for whoever asks then whether it has arrived.
            shared.end(error);
            return Ok(Flow::Ended);
        }
        shared.count(Direction::Outgoing, 1);
    }
    // From here no credit goes back, so the peer can finish only what it has credit for: the one who has said all is near
    // its end.
    let _ = timeout(stall, writer.close()).await;
    Ok(Flow::HalfClosed)
}

/// Waits until the peer will take the frame, and gives credit back meanwhile.
async fn wait_for_credit<S>(
    writer: &mut WriteHalf<S>,
    shared: &Shared,
    frame: &Frame,
    stall: Duration,
) -> Result<(), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let cost = u32::try_from(frame.cost()).expect("frames are far smaller than 4 GiB");
    let wait = async {
        loop {
            tokio::select! {
                permit = shared.credit.acquire_many(cost) => {
                    permit.expect("never closed").forget();
                    return Ok(());
                }
                () = shared.owed_enough.notified() => give_back(writer, shared, stall).await?,
            }
        }
    };
    timeout(stall, wait).await.map_err(|_elapsed| LinkError::Stalled(stall))?
}

async fn give_back<S>(writer: &mut WriteHalf<S>, shared: &Shared, stall: Duration) -> Result<(), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(bytes) = shared.take_owed() else { return Ok(()) };
    let bytes = u32::try_from(bytes).expect("no more can be owed than was granted");
    write_in_time(writer, shared, &Frame::new(KIND_CREDIT, encode(&bytes), Default::default()), stall).await
}

async fn write_in_time<S>(
    writer: &mut WriteHalf<S>,
    shared: &Shared,
    frame: &Frame,
    stall: Duration,
) -> Result<(), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = stall + Duration::from_secs(frame.cost() as u64 / RATE_MIN);
    let write = async {
        frame::write(writer, frame, |bytes| shared.count(Direction::Outgoing, bytes)).await?;
        writer.flush().await
    };
    timeout(limit, write).await.map_err(|_elapsed| LinkError::Stalled(limit))?.map_err(FrameError::from)?;
    Ok(())
}

#[cfg(test)]
mod tests;
