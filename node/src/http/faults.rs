//! The fault door: routes by which a test network hurts its node. They exist only where the node was started for that.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::routing::get;
use axum::{Json, Router};
use p2p_api::types;
use p2p_api::{Code, Problem};

use super::Refusal;
use super::admin::malformed;
use crate::faults::Faults;

pub(super) fn routes(faults: Arc<Faults>) -> Router {
    Router::new().route("/v1/faults", get(show).put(set)).with_state(faults)
}

async fn show(State(faults): State<Arc<Faults>>) -> Json<types::Faults> {
    Json(faults.get())
}

async fn set(
    State(faults): State<Arc<Faults>>,
    body: Result<Json<types::Faults>, JsonRejection>,
) -> Result<Json<types::Faults>, Refusal> {
    let Json(wanted) = body.map_err(|error| malformed(&error))?;
    faults.set(wanted).map_err(|reason| Refusal(Problem::new(Code::Usage, reason)))?;
    Ok(Json(faults.get()))
}
