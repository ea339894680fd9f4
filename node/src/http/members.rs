//! Routes about members: who they are, what happens to them, and what this node says of itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::{Stream, stream};
use p2p_api::types::{MemberEvent, Members, Tags, TagsRequest};
use p2p_api::{Code, Problem};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use super::admin::malformed;
use crate::handle::Handle;
use crate::membership::events::{Cursor, MemberEvents};

/// Header by which a watch that was cut off goes on (HTML, section 9.2).
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// How often a watch shows that it is there while nothing happens.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchQuery {
    since: Option<String>,
}

pub(super) async fn members(State(handle): State<Handle>) -> Result<Json<Members>, Refusal> {
    Ok(Json(handle.members().await?))
}

pub(super) async fn watch(
    State(handle): State<Handle>,
    query: Result<Query<WatchQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let Query(WatchQuery { since }) = query.map_err(|error| malformed(&error))?;
    let header = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let events = handle.member_events();
    let cursor = match header.or(since) {
        None => events.now(),
        Some(id) => Cursor::parse(&id).ok_or_else(|| {
            Refusal(
                Problem::new(Code::Usage, format!("{id:?} is no id of an event"))
                    .hint("Leave it out to watch from now on."),
            )
        })?,
    };
    let watch = Watch { events, cursor, left: VecDeque::new(), stopping: handle.stopping() };
    let events = stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        let said = Event::default().id(&event.id).event(event.kind.word()).json_data(&event).ok()?;
        Some((Ok(said), watch))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Watch {
    events: Arc<MemberEvents>,
    cursor: Cursor,
    left: VecDeque<MemberEvent>,
    stopping: CancellationToken,
}

impl Watch {
    /// The next event; None once the node stops.
    async fn next(&mut self) -> Option<MemberEvent> {
        while self.left.is_empty() {
            tokio::select! {
                events = self.events.after(&mut self.cursor) => self.left.extend(events),
                () = self.stopping.cancelled() => return None,
            }
        }
        self.left.pop_front()
    }
}

pub(super) async fn leave(State(handle): State<Handle>) -> Result<Json<()>, Refusal> {
    handle.leave().await?;
    Ok(Json(()))
}

pub(super) async fn tags(
    State(handle): State<Handle>,
    body: Result<Json<TagsRequest>, JsonRejection>,
) -> Result<Json<Tags>, Refusal> {
    let Json(request) = body.map_err(|error| malformed(&error))?;
    Ok(Json(handle.set_tags(&request).await?))
}
