//! Routes about the node itself.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use p2p_api::types::{JoinRequest, JoinResult, LogLevelRequest, LogLevelResult, Status, TicketResult};
use p2p_api::{Code, Problem};
use serde::Deserialize;

use super::Refusal;
use crate::handle::{Handle, STALL_DEFAULT};
use crate::metrics::Metrics;
use crate::telemetry;

/// A limit on waiting, in a query.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    timeout_ms: Option<u64>,
}

impl Limit {
    pub(super) fn duration(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    members: Option<u32>,
    timeout_ms: Option<u64>,
}

pub(super) async fn live() -> &'static str {
    "alive\n"
}

pub(super) async fn ready(State(handle): State<Handle>) -> Result<&'static str, Refusal> {
    handle.readiness()?;
    Ok("ready\n")
}

pub(super) async fn metrics(
    State(handle): State<Handle>,
    State(metrics): State<Arc<Metrics>>,
) -> Result<impl IntoResponse, Refusal> {
    let text = metrics.encode(&handle).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

pub(super) async fn status(State(handle): State<Handle>) -> Result<Json<Status>, Refusal> {
    Ok(Json(handle.status().await?))
}

pub(super) async fn ticket(State(handle): State<Handle>) -> Json<TicketResult> {
    Json(handle.ticket())
}

pub(super) async fn join(
    State(handle): State<Handle>,
    limit: Result<Query<Limit>, QueryRejection>,
    body: Result<Json<JoinRequest>, JsonRejection>,
) -> Result<Json<JoinResult>, Refusal> {
    let limit = limit.map_err(|error| malformed(&error))?;
    let Json(request) = body.map_err(|error| malformed(&error))?;
    Ok(Json(handle.join(request.target.trim(), limit.duration()).await?))
}

pub(super) async fn wait(
    State(handle): State<Handle>,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<Status>, Refusal> {
    let Query(WaitQuery { members, timeout_ms }) = query.map_err(|error| malformed(&error))?;
    let limit = timeout_ms.map_or(STALL_DEFAULT, Duration::from_millis);
    Ok(Json(handle.wait(members, limit).await?))
}

pub(super) async fn log_level(
    body: Result<Json<LogLevelRequest>, JsonRejection>,
) -> Result<Json<LogLevelResult>, Refusal> {
    let Json(request) = body.map_err(|error| malformed(&error))?;
    Ok(Json(telemetry::set(&request)?))
}

pub(super) async fn unknown() -> (StatusCode, Refusal) {
    let problem = Problem::new(Code::UnsupportedVersion, "this node has no such route");
    (StatusCode::NOT_FOUND, Refusal(problem.hint("Are node and command line of the same version?")))
}

pub(super) fn malformed(error: &impl std::fmt::Display) -> Refusal {
    Refusal(Problem::new(Code::Usage, error.to_string()))
}
