//! Routes of content.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use p2p_api::types::Stat;
use p2p_api::{ByteRange, Code, Problem};
use p2p_dht::content::Download;
use p2p_dht::tree::{NotAnAddress, RootId};
use serde::Deserialize;

use super::admin::{Limit, malformed};
use super::{ApiCounters, Refusal};
use crate::error::{GetFailure, content_problem};
use crate::handle::{GetRequest, Handle, PutRequest};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutQuery {
    replicas: Option<u32>,
    acks: Option<u32>,
    timeout_ms: Option<u64>,
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetQuery {
    cache: Option<bool>,
    timeout_ms: Option<u64>,
}

pub(super) async fn put(
    State(handle): State<Handle>,
    query: Result<Query<PutQuery>, QueryRejection>,
    body: Body,
) -> Result<Response, Refusal> {
    let Query(PutQuery { replicas, acks, timeout_ms, name }) = query.map_err(|error| malformed(&error))?;
    let request = PutRequest { replicas, acks, stall: timeout_ms.map(Duration::from_millis), name };
    let result = handle.put(body.into_data_stream().map_err(std::io::Error::other), request).await?;
    let status = if result.problem.is_some() { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    let location = [(header::LOCATION, format!("/v1/content/{}", result.address))];
    Ok((status, location, Json(result)).into_response())
}

pub(super) async fn get(
    State(handle): State<Handle>,
    State(counters): State<Arc<ApiCounters>>,
    Path(address): Path<String>,
    query: Result<Query<GetQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Query(GetQuery { cache, timeout_ms }) = query.map_err(|error| malformed(&error))?;
    let root = parse_address(&address)?;
    let range = requested_range(&headers)?;
    let request = GetRequest { range, cache: cache.unwrap_or(true), stall: timeout_ms.map(Duration::from_millis) };
    match handle.get(root, request).await {
        Ok(download) => Ok(send(&address, range, download, counters)),
        Err(GetFailure::OutOfRange(len)) => Ok(out_of_range(len)),
        Err(GetFailure::Problem(problem)) => {
            counters.get_failed(problem.code);
            Err(problem.into())
        }
    }
}

/// Answers with the bytes of a download as they come.
fn send(address: &str, range: Option<ByteRange>, download: Download, counters: Arc<ApiCounters>) -> Response {
    let file_len = download.file_len;
    // Nothing is no range of anything: an empty file is sent whole.
    let part = range.and_then(|range| range.within(file_len));
    let std::ops::Range { start, end } = part.clone().unwrap_or(0..file_len);
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ETAG, format!("\"{}\"", address.to_lowercase()))
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, end - start);
    if part.is_some() {
        let range = format!("bytes {start}-{}/{file_len}", end - 1);
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
    }
    let bytes = futures::stream::unfold((download, counters), |(mut download, counters)| async move {
        let next = download.next().await?;
        let next = next.map_err(|error| {
            counters.get_failed(content_problem(&error).code);
            // The length was promised: breaking off is all that can be said now. Asking again for the rest says why.
            tracing::warn!(%error, "content broke off");
            std::io::Error::other(error)
        });
        Some((next, (download, counters)))
    });
    response.body(Body::from_stream(bytes)).expect("the headers are plain text")
}

pub(super) async fn stat(
    State(handle): State<Handle>,
    Path(address): Path<String>,
    limit: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<Stat>, Refusal> {
    let limit = limit.map_err(|error| malformed(&error))?;
    Ok(Json(handle.stat(parse_address(&address)?, limit.duration()).await?))
}

fn parse_address(text: &str) -> Result<RootId, Refusal> {
    text.parse().map_err(|error: NotAnAddress| Refusal(Problem::new(Code::Usage, error.to_string())))
}

/// Says how much there is to those who asked for what is not.
fn out_of_range(len: u64) -> Response {
    let mut response = Refusal(GetFailure::OutOfRange(len).problem()).into_response();
    let range = HeaderValue::try_from(format!("bytes */{len}")).expect("digits are plain text");
    response.headers_mut().insert(header::CONTENT_RANGE, range);
    response
}

/// The single range of a request. None without one.
fn requested_range(headers: &HeaderMap) -> Result<Option<ByteRange>, Refusal> {
    let Some(value) = headers.get(header::RANGE) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.strip_prefix("bytes=")?.parse().ok());
    parsed.map(Some).ok_or_else(|| {
        let problem = Problem::new(Code::Usage, "the range cannot be used");
        Refusal(problem.hint("Ask for one range: bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT"))
    })
}
