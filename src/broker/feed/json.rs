//! The feed for our own clients.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::{access, conditional, entity_tag, given_to, rdp_path, workspace_path};
use crate::broker::Shared;
use crate::broker::http::Refused;
use crate::core::codes::Code;
use crate::wire::feed::{Discovery, Feed, FeedResource, FeedWorkspace};

/// `GET /api/feed/discovery` (step 1).
pub async fn discovery(State(shared): State<Arc<Shared>>) -> Json<Discovery> {
    let config = shared.config();
    let identity = &config.identity;
    shared.teller.tell(1, None, "workspace discovered");
    Json(Discovery {
        workspace: config.default_workspace().to_string(),
        issuer: identity.issuer.clone(),
        client_id: identity.client_id.clone(),
        audience: identity.audience.clone(),
        scopes: identity.scopes(),
    })
}

/// `GET /api/feed` (steps 3 to 5): everything, of all workspaces.
pub async fn feed(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let user = access::user(&shared, &headers).await?;
    let config = shared.config();
    let given = given_to(&shared, &config, &user).await;
    let mut workspaces = config.all_workspaces();
    workspaces.retain(|one| given.iter().any(|g| *config.workspace_of(g.resource) == one.name));
    let resources: Vec<_> = given
        .into_iter()
        .map(|given| FeedResource {
            id: given.resource.id.clone(),
            title: given.resource.title.clone(),
            kind: given.resource.kind,
            rdp_path: rdp_path(&given.resource.id),
            workspace: Some(config.workspace_of(given.resource).clone()),
            revision: given.revision,
        })
        .collect();
    tracing::info!(step = 5, user = %user.name, resources = resources.len(), "Returned the feed");
    let feed = Feed {
        workspace: config.default_workspace().to_string(),
        user: user.name,
        resources,
        workspaces: workspaces
            .into_iter()
            .map(|workspace| FeedWorkspace {
                title: workspace.title().to_owned(),
                feed_path: workspace_path(&workspace.name),
                name: workspace.name,
                description: workspace.description,
            })
            .collect(),
    };
    let body = serde_json::to_vec(&feed).map_err(|_| Code::Internal)?;
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok(conditional(&headers, &entity_tag(&body), "private, no-cache", || {
        (kind, body).into_response()
    }))
}
