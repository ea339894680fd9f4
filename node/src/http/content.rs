//! Routes of content.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use p2p_api::types::Stat;
use p2p_api::{Code, Problem};
use p2p_dht::content::{Download, GetOptions};
use p2p_dht::get::Range;
use p2p_dht::tree::{NotAnAddress, RootId};
use serde::Deserialize;

use super::Refusal;
use super::admin::{Limit, malformed};
use crate::handle::{Handle, PutRequest, STALL_DEFAULT, STALL_MAX};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutQuery {
    replicas: Option<u32>,
    acks: Option<u32>,
    timeout_ms: Option<u64>,
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
    let Query(PutQuery { replicas, acks, timeout_ms }) = query.map_err(|error| malformed(&error))?;
    let request = PutRequest { replicas, acks, stall: timeout_ms.map(Duration::from_millis) };
    let result = handle.put(body.into_data_stream().map_err(std::io::Error::other), request).await?;
    let status = if result.problem.is_some() { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    let location = [(header::LOCATION, format!("/v1/content/{}", result.address))];
    Ok((status, location, Json(result)).into_response())
}

pub(super) async fn get(
    State(handle): State<Handle>,
    Path(address): Path<String>,
    query: Result<Query<GetQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Query(GetQuery { cache, timeout_ms }) = query.map_err(|error| malformed(&error))?;
    let root = parse_address(&address)?;
    let asked = requested_range(&headers)?;
    let stall = timeout_ms.map_or(STALL_DEFAULT, Duration::from_millis).min(STALL_MAX);
    let options = GetOptions { range: asked.unwrap_or(Range::ALL), cache: cache.unwrap_or(true), stall };
    let download = handle.get(root, options).await?;
    // Nothing is no range of anything: an empty file is sent whole.
    let asked = asked.filter(|_| download.file_len > 0);
    Ok(send(&address, asked, download))
}

/// Answers with the bytes of a download as they come.
fn send(address: &str, asked: Option<Range>, download: Download) -> Response {
    let file_len = download.file_len;
    let Range { start, end } = asked.unwrap_or(Range::ALL);
    let end = end.unwrap_or(file_len).min(file_len);
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ETAG, format!("\"{}\"", address.to_lowercase()))
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, end - start);
    if asked.is_some() {
        let range = format!("bytes {start}-{}/{file_len}", end - 1);
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
    }
    let bytes = futures::stream::unfold(download, |mut download| async move {
        let next = download.next().await?;
        let next = next.map_err(|error| {
            // The length was promised: breaking off is all that can be said now. Asking again for the rest says why.
            tracing::warn!(%error, "content broke off");
            std::io::Error::other(error)
        });
        Some((next, download))
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

/// The single range of a request (RFC 9110, section 14.1.2). None without one.
fn requested_range(headers: &HeaderMap) -> Result<Option<Range>, Refusal> {
    let Some(value) = headers.get(header::RANGE) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(parse_range);
    parsed.map(Some).ok_or_else(|| {
        Refusal(Problem::new(Code::Usage, "the range cannot be used").hint("Ask for one range: bytes=FIRST-LAST"))
    })
}

fn parse_range(text: &str) -> Option<Range> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start = first.parse().ok()?;
    let end = match last {
        "" => None,
        last => Some(last.parse::<u64>().ok()?.checked_add(1)?),
    };
    end.is_none_or(|end| end > start).then_some(Range { start, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_means_them() {
        assert_eq!(parse_range("bytes=0-"), Some(Range { start: 0, end: None }));
        assert_eq!(parse_range("bytes=5-9"), Some(Range { start: 5, end: Some(10) }));
        for wrong in ["bytes=9-5", "bytes=-5", "bytes=a-b", "0-5", "bytes=0-1,3-4", "bytes=1-18446744073709551615"] {
            assert_eq!(parse_range(wrong), None, "{wrong}");
        }
    }
}
