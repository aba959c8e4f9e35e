//! The routes of the broker's port, and how it refuses.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};

use super::{Shared, admin_https, channels, enroll, feed};
use crate::core::codes::{Code, Refusal};
use crate::wire::admin::HTTPS_PATH;
use crate::wire::arm::RefusalBody;

/// All routes.
pub fn router(shared: Arc<Shared>) -> Router {
    let body_max = shared.config().limits.request_body_bytes_max;
    Router::new()
        .route("/enroll", post(enroll::handle))
        .merge(feed::routes())
        .route("/channel/agent", get(channels::agent))
        .route("/channel/gateway", get(channels::gateway))
        .route(HTTPS_PATH, any(admin_https::handle))
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || Refused(Refusal::new(Code::NotFound)))
        .method_not_allowed_fallback(async || Refused(Refusal::new(Code::MethodNotAllowed)))
        .layer(DefaultBodyLimit::max(body_max))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), with_deadline))
        .with_state(shared)
}

/// A request is answered within its deadline; a channel's request is only its
/// upgrade, so it is answered at once.
async fn with_deadline(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let patience = Duration::from_millis(shared.config().limits.request_timeout_ms);
    match tokio::time::timeout(patience, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => Refused(Refusal::new(Code::RequestTimeout)).into_response(),
    }
}

/// A refusal as an HTTP answer.
#[derive(Debug)]
pub struct Refused(pub Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<Code> for Refused {
    fn from(code: Code) -> Self {
        Self(code.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let facts = self.0.code.facts();
        let status =
            StatusCode::from_u16(facts.http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = RefusalBody {
            code: facts.name.to_owned(),
            number: facts.number,
            message: facts.advice.to_owned(),
            step: facts.step,
            refusal: self.0,
        };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
