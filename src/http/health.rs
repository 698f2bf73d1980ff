//! `/healthz`, `/readyz` and `/metrics`. Health and readiness also answer on the API listeners, for load balancers that
//! see no other; reasons and metrics are told on the administrative listener only.

use std::sync::Arc;

use ::http::{HeaderValue, StatusCode, header};
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;

use super::metrics::Metrics;

/// Whether requests can be served now. Reasons name no path, no secret and no PKCS#11 code.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub reasons: Vec<String>,
}

/// Asked at every `/readyz`.
pub type Probe = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// Nobody has said that it is ready.
pub(super) fn unknown() -> Probe {
    Arc::new(|| Readiness { ready: false, reasons: vec!["the service is starting".to_owned()] })
}

/// `GET /healthz` and `GET /readyz`, to be merged into the API's router.
pub(super) fn public(probe: Probe) -> Router {
    routes(move || {
        let Readiness { ready, .. } = probe();
        readiness(ready, format!(r#"{{"ready":{ready}}}"#))
    })
}

pub(super) fn admin(probe: Probe, metrics: Arc<Metrics>) -> Router {
    routes(move || {
        let state = probe();
        readiness(state.ready, serde_json::to_string(&state).unwrap_or_default())
    })
    .route("/metrics", get(move || std::future::ready(answer(StatusCode::OK, Metrics::CONTENT_TYPE, metrics.text()))))
    .fallback(|| std::future::ready(answer(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned())))
}

const TEXT: &str = "text/plain; charset=utf-8";

fn routes(ready: impl Fn() -> Response + Clone + Send + Sync + 'static) -> Router {
    Router::new()
        .route("/healthz", get(|| std::future::ready(answer(StatusCode::OK, TEXT, "ok\n".to_owned()))))
        .route("/readyz", get(move || std::future::ready(ready())))
}

fn readiness(ready: bool, json: String) -> Response {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, "application/json", json)
}

fn answer(status: StatusCode, content_type: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
