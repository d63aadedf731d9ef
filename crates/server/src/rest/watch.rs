//! Streams of server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use casemate_api::rest::{self, InstanceState, Problem};
use futures::{Stream, StreamExt as _, stream};
use serde::Serialize;

use super::Rejection;
use crate::{
    fault::Fault,
    service::{Caller, Change, Service},
};

/// A comment for whoever is between, so that a quiet stream does not look dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// When a client comes back after the end of a stream.
const RETRY: Duration = Duration::from_secs(1);

/// The state of your instances (an operator's: all), and then of each that changes, as server-sent events. It begins with all there
/// is, then the event `whole`; an event `forgotten` has the id of an instance that is no more. It ends after ten minutes, and
/// when the server does: come back then, to any server.
#[utoipa::path(get, path = "/api/v1/events", tag = "instances", operation_id = "watch_instances",
    responses((status = 200, description = "Events `instance`, `whole` and `forgotten`", body = InstanceState, content_type = "text/event-stream"),
        (status = 429, description = "Too many streams", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn all(State(service): State<Service>, caller: Caller) -> Result<Response, Rejection> {
    let told = service.watch_all(&caller)?.map(|change| match change {
        Change::Is(state) => message("instance", &state),
        Change::Forgotten(id) => message("forgotten", &serde_json::json!({ "id": id.as_str() })),
        Change::Whole => message("whole", &serde_json::json!({})),
    });
    Ok(answer(told))
}

/// The events of one instance. Each has its number as `id`, so that a client that lost the stream goes on where it was.
pub(super) async fn events(service: &Service, caller: &Caller, id: &str, after: u64) -> Result<Response, Rejection> {
    let told = service.watch_instance(caller, id, after).await?;
    Ok(answer(told.map(|event: rest::Event| message(&event.kind, &event).id(event.seq.to_string()))))
}

/// Whether the client asks for a stream, and not for an answer.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let mut kinds = accepted.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.any(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
}

/// The number of the last event that the client has, where it says so.
pub(super) fn last_event(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let hint = "send the `id` of the last event of this instance that you have";
    number.map(Some).ok_or_else(|| Fault::Invalid { what: "Last-Event-ID", detail: "must be a whole number".into(), hint })
}

fn message(kind: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).expect("an answer always serialises");
    Event::default().event(kind).data(data)
}

fn answer(told: impl Stream<Item = Event> + Send + 'static) -> Response {
    let first = stream::once(async { Event::default().retry(RETRY) });
    let told = first.chain(told).map(Ok::<_, Infallible>);
    Sse::new(told).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}
