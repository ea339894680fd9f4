//! Routes of the replicated map.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use bytes::Bytes;
use futures::{Stream, stream};
use p2p_api::types::{CONTEXT_HEADER, KvEntry, KvKeys, KvWritten};
use p2p_api::{Code, Problem};
use p2p_gossip::kv::{VALUE_LEN_MAX, Write, WriteError};
use serde::Deserialize;
use tokio_util::io::ReaderStream;

use super::Refusal;
use super::admin::malformed;
use super::members::{KEEP_ALIVE, LAST_EVENT_ID};
use crate::handle::Handle;
use crate::handle::kv::{BODY_LEN_MAX, KvWriteRequest, token_of};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteQuery {
    #[serde(default)]
    sibling: bool,
    #[serde(default)]
    force: bool,
    acks: Option<u32>,
    timeout_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeysQuery {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchQuery {
    #[serde(default)]
    prefix: String,
    since: Option<String>,
}

type Key = Result<Path<String>, PathRejection>;

/// What a token is in beside the document: a client that knows nothing else can send it back.
type Context = [(&'static str, String); 1];

pub(super) async fn get(State(handle): State<Handle>, key: Key) -> Result<(Context, Json<KvEntry>), Refusal> {
    let Path(key) = key.map_err(|error| malformed(&error))?;
    let entry = handle.kv_get(&key).await?;
    Ok(([(CONTEXT_HEADER, entry.token.clone())], Json(entry)))
}

pub(super) async fn put(
    State(handle): State<Handle>,
    key: Key,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let Path(key) = key.map_err(|error| malformed(&error))?;
    let request = write_request(query, &headers, true)?;
    let value = read_value(body).await?;
    written(handle.kv_write(&key, Some(value), request).await)
}

pub(super) async fn delete(
    State(handle): State<Handle>,
    key: Key,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path(key) = key.map_err(|error| malformed(&error))?;
    let request = write_request(query, &headers, false)?;
    written(handle.kv_write(&key, None, request).await)
}

fn written(written: Result<KvWritten, Problem>) -> Result<Response, Refusal> {
    let written = written?;
    let status = if written.problem.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, [(CONTEXT_HEADER, written.token.clone())], Json(written)).into_response())
}

async fn read_value(body: Body) -> Result<Bytes, Refusal> {
    axum::body::to_bytes(body, BODY_LEN_MAX).await.map_err(|error| {
        let is_too_long =
            std::error::Error::source(&error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        let problem = match is_too_long {
            true => Problem::new(Code::Usage, WriteError::TooLong(BODY_LEN_MAX).to_string())
                .hint(format!("At most {VALUE_LEN_MAX} bytes: store it as content, and its address as the value.")),
            false => Problem::new(Code::Usage, format!("the value broke off: {error}")),
        };
        Refusal(problem)
    })
}

fn write_request(
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: &HeaderMap,
    is_put: bool,
) -> Result<KvWriteRequest, Refusal> {
    let Query(WriteQuery { sibling, force, acks, timeout_ms }) = query.map_err(|error| malformed(&error))?;
    let token = headers.get(CONTEXT_HEADER).map(|value| token_of(value.to_str().unwrap_or_default())).transpose()?;
    let create = match headers.get(header::IF_NONE_MATCH) {
        None => false,
        Some(value) if value == "*" => true,
        Some(_) => return Err(malformed(&"If-None-Match: only * has a meaning here")),
    };
    let wait = timeout_ms.map(Duration::from_millis);
    let write = match (token, force, sibling, create) {
        (None, force, false, false) => Write::Held { force },
        (Some(token), false, false, false) => Write::Read(token),
        (None, false, true, false) if is_put => Write::Beside,
        (None, false, false, true) if is_put => Write::Create,
        _ => {
            return Err(malformed(
                &"a write has a token, or is forced, or stands beside, or creates; a delete cannot do the last two",
            ));
        }
    };
    Ok(KvWriteRequest { write, acks, wait })
}

pub(super) async fn keys(
    State(handle): State<Handle>,
    query: Result<Query<KeysQuery>, QueryRejection>,
) -> Result<Json<KvKeys>, Refusal> {
    let Query(KeysQuery { prefix, after, limit }) = query.map_err(|error| malformed(&error))?;
    Ok(Json(handle.kv_keys(prefix, after.as_deref(), limit).await?))
}

pub(super) async fn watch(
    State(handle): State<Handle>,
    query: Result<Query<WatchQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let Query(WatchQuery { prefix, since }) = query.map_err(|error| malformed(&error))?;
    let header = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let watch = handle.kv_watch(prefix, header.or(since).as_deref())?;
    let events = stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        let said = Event::default().id(&event.id).event(event.kind.word()).json_data(&event).ok()?;
        Some((Ok(said), watch))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

pub(super) async fn backup(State(handle): State<Handle>) -> Result<Response, Refusal> {
    let file = handle.back_up().await?;
    let failed = |error: std::io::Error| Refusal(Problem::new(Code::Other, error.to_string()));
    let len = file.metadata().map_err(failed)?.len();
    let headers =
        [(header::CONTENT_TYPE, "application/vnd.sqlite3".to_owned()), (header::CONTENT_LENGTH, len.to_string())];
    let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
    Ok((headers, body).into_response())
}
