//! What every request passes before an endpoint, and how endpoints are served, whatever they are.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::middleware::{from_fn_with_state, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{json, Value};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{timeout_at, Instant};

use super::access::Access;
use super::errors::{self, ApiError, Result};
use super::keys::{self, ApiKeys};
use super::metrics::Metrics;
use super::{connections, Settings};
use crate::metrics::TEXT_FORMAT;
use crate::model::{Kind, ModelFile};

/// What connections get to take notice after the drain is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Who may enter, and the count of what they were told.
pub struct Door {
    pub keys: ApiKeys,
    pub metrics: Arc<Metrics>,
}

/// All routes: those that are open to everybody, and those that need a key where there are any.
pub fn routes<S: Clone + Send + Sync + 'static>(
    door: &Arc<Door>,
    open: Router<S>,
    guarded: Router<S>,
) -> Router<S> {
    open.merge(guarded.route_layer(from_fn_with_state(door.clone(), keys::require)))
        .fallback(errors::unknown_path)
        .method_not_allowed_fallback(errors::unknown_method)
        .layer(from_fn_with_state(door.clone(), receive))
}

/// Serves until `stop` becomes true, and then until the requests under way are answered or the drain is over: `close` is
/// called when no more are taken, `abort` when those that are left get an error.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: &Settings,
    stop: watch::Receiver<bool>,
    close: impl Fn(),
    abort: impl Fn(),
) -> std::io::Result<()> {
    let (closed, stopping) = watch::channel(false);
    let wait = |mut seen: watch::Receiver<bool>| async move {
        let _ = seen.wait_for(|seen| *seen).await;
    };
    let server = connections::serve(listener, router, settings.limits, wait(stopping));
    let patience = async {
        wait(stop).await;
        close();
        closed.send_replace(true);
        tokio::time::sleep(settings.drain).await;
        abort();
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = server => Ok(()),
        () = patience => Ok(()),
    }
}

/// Counts every answer, and logs it. Without keys it serves those alone who call this machine by a local name: a web page could
/// otherwise let its own name resolve to 127.0.0.1 and use the API from a visitor's browser.
async fn receive(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let access = Access::begin(&mut request);
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default().to_string());
    let response = match host {
        Some(host) if door.keys.is_empty() && !is_local(&host) => {
            ApiError::foreign_host(&host).into_response()
        }
        _ => next.run(request).await,
    };
    door.metrics.answered(response.status());
    access.answered(response.status());
    response
}

fn is_local(host: &str) -> bool {
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if digits(port) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads a prompt away from the threads that serve all requests, and until the `deadline` that `timeout` set at most.
pub async fn aside<A: Kind + 'static, T: Send + 'static>(
    model: &Arc<ModelFile<A>>,
    timeout: Duration,
    deadline: Instant,
    read: impl FnOnce(&ModelFile<A>) -> Result<T> + Send + 'static,
) -> Result<T> {
    timeout_at(deadline, model.reading(read))
        .await
        .map_err(|_| ApiError::timeout(timeout.as_secs_f64()))?
        .map_err(|_| ApiError::internal("the reader of prompts crashed on this request"))?
}

/// Whether requests are taken.
pub fn health(open: bool) -> Result<Json<Value>> {
    match open {
        true => Ok(Json(json!({ "status": "ok" }))),
        false => Err(ApiError::stopping()),
    }
}

/// Metrics as an answer.
pub fn exposition(text: String) -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT_FORMAT)], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_this_machine() {
        for host in ["localhost", "LocalHost:8080", "127.0.0.1", "127.9.9.9:1", "[::1]:8080", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com:8080", "10.0.0.1:8080", "127.0.0.1.nip.io"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
