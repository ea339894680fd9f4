//! What the hostile peer answers when it is asked.

use std::sync::Arc;
use std::time::Duration;

use futures::io::{AsyncReadExt, AsyncWriteExt};
use p2p_dht::message::{Refusal, Reply, Request};
use p2p_gossip::wire::link::CREDIT_STEP_MIN;
use p2p_gossip::wire::{Frame, encode};

use super::door::Member;
use super::map;
use super::seat::{Sitting, Ways};
use super::wire::{CREDIT, HELLO, header};
use super::{Attack, Scenario};

const BROKEN: &[&str] = &["p2p_links_broken"];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("answer-no-hello", |a| Box::pin(member(a, Answers::NoHello))).when_asked().moving_later(BROKEN),
    Scenario::new("answer-silence", |a| Box::pin(member(a, Answers::Nothing)))
        .when_asked()
        .moving_later(&["p2p_requests_silent"]),
    Scenario::new("answer-4gib", |a| Box::pin(member(a, Answers::FourGib))).when_asked().moving(BROKEN),
    Scenario::new("answer-garbage", |a| Box::pin(member(a, Answers::Garbage))).when_asked().moving(BROKEN),
    Scenario::new("answer-wrong-bytes", |a| Box::pin(member(a, Answers::WrongBytes))).when_asked(),
    Scenario::new("answer-wrong-number", |a| Box::pin(member(a, Answers::WrongNumber))).when_asked().moving(BROKEN),
    Scenario::new("answer-twice", |a| Box::pin(member(a, Answers::Twice))).when_asked().moving(BROKEN),
    Scenario::new("answer-unasked", |a| Box::pin(member(a, Answers::Unasked))).when_asked().moving(BROKEN),
    Scenario::new("answer-wrong-kind", |a| Box::pin(member(a, Answers::WrongKind))).when_asked(),
    Scenario::new("answer-drip", |a| Box::pin(member(a, Answers::Drip))).when_asked(),
    Scenario::new("answer-hangs-up", |a| Box::pin(member(a, Answers::HangsUp))).when_asked(),
    Scenario::new("answer-no-credit", |a| Box::pin(member(a, Answers::NoCredit))).when_asked(),
    Scenario::new("answer-false-credit", |a| Box::pin(member(a, Answers::FalseCredit))).when_asked().moving(BROKEN),
    Scenario::new("answer-yes", |a| Box::pin(member(a, Answers::Yes))).when_asked(),
    Scenario::new("answer-full", |a| Box::pin(member(a, Answers::Full))).when_asked(),
    Scenario::new("answer-missing", |a| Box::pin(member(a, Answers::Missing))).when_asked(),
    Scenario::new("answer-late", |a| Box::pin(member(a, Answers::Late))).when_asked(),
];

/// How requests about objects are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answers {
    /// As an honest member would that has nothing, and no room: what it is up to, it does elsewhere.
    #[default]
    Empty,
    /// It ends the stream at once.
    HangsUp,
    /// It says no hello.
    NoHello,
    /// It says hello, and nothing more.
    Nothing,
    /// An answer that claims 4 GiB.
    FourGib,
    /// Bytes that are no frame.
    Garbage,
    /// Objects of wrong bytes and roots of wrong lengths.
    WrongBytes,
    /// Answers to other numbers.
    WrongNumber,
    /// Every answer twice.
    Twice,
    /// Answers before anything was asked.
    Unasked,
    /// Another answer than the request has.
    WrongKind,
    /// A byte a second.
    Drip,
    /// It gives back no credit.
    NoCredit,
    /// It gives credit that cannot be.
    FalseCredit,
    /// It has all, takes all, keeps all: so it says.
    Yes,
    /// It has no room.
    Full,
    /// It takes everything, and has lost it when it is to be bound.
    Missing,
    /// What nobody has, right before it would be given up.
    Late,
}

/// How the hostile peer answers on each protocol.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    pub(crate) objects: Answers,
    /// What it does among the members.
    pub(crate) seat: Sitting,
    /// Whether others can dial it.
    pub(crate) listens: bool,
    /// How it answers questions about the map; None where it says that it has none.
    pub(crate) map: Option<map::answers::Answers>,
}

impl Default for Manners {
    fn default() -> Self {
        Self { objects: Answers::Empty, seat: Sitting::Nowhere, listens: false, map: None }
    }
}

/// A member that everybody meets, and that answers so.
async fn member(attack: Arc<Attack>, objects: Answers) {
    let seat = Sitting::Down(Ways::Honest);
    let _member = Member::enter(&attack, 0, Manners { objects, seat, listens: true, map: None }).await;
    // The victim tells the others of it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    attack.began();
    std::future::pending().await
}

/// Answers one stream of requests.
pub(crate) async fn objects(attack: Arc<Attack>, manners: Manners, stream: libp2p::Stream) -> std::io::Result<()> {
    let manner = manners.objects;
    if manner == Answers::HangsUp {
        attack.did("hung up");
        return Ok(());
    }
    let (mut reader, mut writer) = stream.split();
    if manner == Answers::NoHello {
        attack.did("kept silent");
        return read_on(&mut reader).await;
    }
    let theirs = super::wire::next(&mut reader).await?;
    let credit: u32 = if manner == Answers::NoCredit { 2 << 20 } else { 4 << 20 };
    let hello = p2p_gossip::wire::Hello {
        cluster: attack.cluster,
        versions: p2p_dht::message::VERSIONS,
        capabilities: 0,
        credit,
    };
    let head = encode(&hello);
    writer.write_all(&header(HELLO, 0, head.len() as u16, 0)).await?;
    writer.write_all(&head).await?;
    writer.flush().await?;
    debug_assert_eq!(theirs.kind, HELLO);
    attack.did("greeted");
    match manner {
        Answers::Unasked => {
            say(&mut writer, &Reply::Stored.into_frame(3)).await?;
            return read_on(&mut reader).await;
        }
        Answers::FalseCredit => {
            say(&mut writer, &Frame::new(CREDIT, encode(&u32::MAX), Default::default())).await?;
            return read_on(&mut reader).await;
        }
        _ => {}
    }
    let mut owed = 0;
    loop {
        let frame = super::wire::next(&mut reader).await?;
        if frame.kind <= CREDIT {
            continue;
        }
        let len = frame.cost() as u32;
        let Ok((number, request)) = Request::from_frame(frame) else {
            attack.complain("the victim sent a request that is none");
            return Ok(());
        };
        owed += len;
        if manner != Answers::NoCredit && owed >= CREDIT_STEP_MIN {
            say(&mut writer, &Frame::new(CREDIT, encode(&owed), Default::default())).await?;
            owed = 0;
        }
        answer_one(&attack, manner, number, request, &mut writer).await?;
    }
}

async fn answer_one<W: AsyncWriteExt + Unpin>(
    attack: &Attack,
    manner: Answers,
    number: u64,
    request: Request,
    writer: &mut W,
) -> std::io::Result<()> {
    let honest = says_yes(&request);
    match manner {
        Answers::Nothing => {}
        Answers::Empty => say(writer, &has_nothing(&request).into_frame(number)).await?,
        Answers::FourGib => writer.write_all(&header(33, 0, 1, u32::MAX)).await?,
        Answers::Garbage => writer.write_all(&[0xff; 4096]).await?,
        Answers::WrongNumber => say(writer, &honest.into_frame(number.wrapping_add(1000))).await?,
        Answers::Twice => {
            say(writer, &honest.clone().into_frame(number)).await?;
            say(writer, &honest.into_frame(number)).await?;
        }
        Answers::WrongKind => say(writer, &wrong_kind(&request).into_frame(number)).await?,
        Answers::Drip => {
            let frame = honest.into_frame(number);
            let mut bytes = header(frame.kind, 0, frame.head.len() as u16, frame.payload.len() as u32).to_vec();
            bytes.extend_from_slice(&frame.head);
            bytes.extend_from_slice(&frame.payload);
            for byte in bytes {
                tokio::time::sleep(Duration::from_secs(1)).await;
                writer.write_all(&[byte]).await?;
                writer.flush().await?;
            }
        }
        Answers::Full => {
            let reply = if matches!(request, Request::Push(..)) { Reply::Full } else { honest };
            say(writer, &reply.into_frame(number)).await?;
        }
        Answers::Missing => {
            let reply = if matches!(request, Request::Bind(..)) { Reply::Missing(0) } else { honest };
            say(writer, &reply.into_frame(number)).await?;
        }
        Answers::Late => {
            tokio::time::sleep(Duration::from_secs(7)).await;
            say(writer, &honest.into_frame(number)).await?;
        }
        _ if matches!(request, Request::Cancel) => {}
        _ => say(writer, &honest.into_frame(number)).await?,
    }
    writer.flush().await?;
    attack.did("answered");
    Ok(())
}

/// The answer of somebody who has nothing, and no room.
fn has_nothing(request: &Request) -> Reply {
    match request {
        Request::Root(_) | Request::Get(_) => Reply::Absent,
        Request::HaveRoot(_) => Reply::Flags(vec![false]),
        Request::Have(objects) | Request::Count(_, objects) => Reply::Flags(vec![false; objects.len()]),
        Request::Offer(..) | Request::Push(..) => Reply::Full,
        Request::Bind(..) => Reply::Missing(0),
        Request::Keep(_) => Reply::Noted,
        Request::Cancel => Reply::Refused(Refusal::Cancelled),
    }
}

/// The answer of somebody who has everything, takes everything, and keeps nothing.
fn says_yes(request: &Request) -> Reply {
    match request {
        Request::Root(_) => Reply::Root(5, bytes::Bytes::from_static(b"wrong")),
        Request::Get(reference) => Reply::Object(vec![0; reference.len.min(1 << 20) as usize].into()),
        Request::HaveRoot(_) => Reply::Flags(vec![true]),
        Request::Have(objects) | Request::Count(_, objects) => Reply::Flags(vec![true; objects.len()]),
        // It wants everything, so that all of it is sent.
        Request::Offer(_, objects) => Reply::Flags(vec![true; objects.len()]),
        Request::Push(..) => Reply::Stored,
        Request::Bind(..) => Reply::Bound,
        Request::Keep(_) => Reply::Noted,
        Request::Cancel => Reply::Refused(Refusal::Cancelled),
    }
}

fn wrong_kind(request: &Request) -> Reply {
    match request {
        Request::Root(_) => Reply::Flags(vec![]),
        Request::Get(_) => Reply::Root(u64::MAX, vec![0; 100].into()),
        Request::HaveRoot(_) => Reply::Flags(vec![]),
        Request::Have(objects) => Reply::Flags(vec![true; (objects.len() + 1).min(32)]),
        Request::Count(..) => Reply::Flags(vec![true; 32]),
        Request::Offer(..) => Reply::Flags(vec![]),
        Request::Push(..) => Reply::Missing(u64::MAX),
        Request::Bind(..) => Reply::Missing(u64::MAX),
        Request::Keep(_) => Reply::Full,
        Request::Cancel => Reply::Noted,
    }
}

async fn say<W: AsyncWriteExt + Unpin>(writer: &mut W, frame: &Frame) -> std::io::Result<()> {
    let mut bytes = header(frame.kind, frame.flags, frame.head.len() as u16, frame.payload.len() as u32).to_vec();
    bytes.extend_from_slice(&frame.head);
    writer.write_all(&bytes).await?;
    writer.write_all(&frame.payload).await?;
    writer.flush().await
}

async fn read_on<R: AsyncReadExt + Unpin>(reader: &mut R) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while reader.read(&mut buffer).await? > 0 {}
    Ok(())
}
