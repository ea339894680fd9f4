//! The local API: HTTP/1.1 on a Unix socket of this user alone. Routes parse, call one method of the handle, and answer.

mod admin;
mod content;
mod faults;
mod kv;
mod members;
mod serve;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use p2p_api::Problem;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::handle::Handle;
use crate::metrics::Metrics;

pub(crate) use serve::ApiCounters;

/// What the routes stand on.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) handle: Handle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) counters: Arc<ApiCounters>,
}

impl FromRef<Api> for Handle {
    fn from_ref(api: &Api) -> Self {
        api.handle.clone()
    }
}

impl FromRef<Api> for Arc<Metrics> {
    fn from_ref(api: &Api) -> Self {
        api.metrics.clone()
    }
}

impl FromRef<Api> for Arc<ApiCounters> {
    fn from_ref(api: &Api) -> Self {
        api.counters.clone()
    }
}

/// Opens the socket, closed to all other users.
///
/// # Errors
/// When the folder or the socket cannot be made. The caller holds the lock of the home, so a socket that is there already
/// is a dead one.
pub(crate) fn bind(socket: &Path) -> io::Result<UnixListener> {
    p2p_api::home::prepare_socket_dir(socket)?;
    match std::fs::remove_file(socket) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until told to stop, and then until every request is answered.
pub(crate) async fn serve(listener: UnixListener, api: Api, stop: CancellationToken) {
    let counters = api.counters.clone();
    let faults = api.handle.faults().cloned();
    let router = Router::new()
        .route("/livez", get(admin::live))
        .route("/readyz", get(admin::ready))
        .route("/metrics", get(admin::metrics))
        .route("/v1/status", get(admin::status))
        .route("/v1/ticket", get(admin::ticket))
        .route("/v1/join", post(admin::join))
        .route("/v1/wait", get(admin::wait))
        .route("/v1/log-level", put(admin::log_level))
        .route("/v1/members", get(members::members))
        .route("/v1/members/watch", get(members::watch))
        .route("/v1/leave", post(members::leave))
        .route("/v1/tags", post(members::tags))
        .route("/v1/content", post(content::put))
        .route("/v1/content/{address}", get(content::get))
        .route("/v1/content/{address}/stat", get(content::stat))
        .route("/v1/kv/{*key}", get(kv::get).put(kv::put).delete(kv::delete))
        .route("/v1/keys", get(kv::keys))
        .route("/v1/keys/watch", get(kv::watch))
        .route("/v1/backup", get(kv::backup))
        .fallback(admin::unknown)
        .with_state(api);
    let router = match faults {
        Some(faults) => router.merge(faults::routes(faults)),
        None => router,
    };
    serve::serve(listener, router, counters, stop).await;
}

/// A problem as an answer.
struct Refusal(Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self.0)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
