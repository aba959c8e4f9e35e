//! The feed (steps 1 and 3 to 5): what a user was given, as JSON and as signed
//! `.rdp` files.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::http::Refused;
use super::identity::User;
use super::place::{application, load_balance_info};
use crate::config::broker::Resource;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::ResourceId;
use crate::wire::feed::{Discovery, Feed, FeedResource, ResourceKind};
use crate::wire::http_head::bearer_token;
use crate::wire::rdp_file::RdpFile;

/// `GET /api/feed/discovery` (step 1).
pub async fn discovery(State(shared): State<Arc<Shared>>) -> Json<Discovery> {
    let config = shared.config();
    let identity = &config.identity;
    shared.teller.tell(1, None, "workspace discovered");
    Json(Discovery {
        workspace: config.workspace.to_string(),
        issuer: identity.issuer.clone(),
        client_id: identity.client_id.clone(),
        audience: identity.audience.clone(),
    })
}

/// `GET /api/feed` (steps 3 to 5).
pub async fn feed(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Json<Feed>, Refused> {
    let user = authenticate(&shared, &headers).await?;
    let config = shared.config();
    let resources: Vec<_> = config
        .resources
        .iter()
        .filter(|resource| resource.is_assigned_to(&user.name, &user.groups))
        .map(|resource| FeedResource {
            id: resource.id.clone(),
            title: resource.title.clone(),
            kind: resource.kind,
            rdp_path: format!("/api/feed/rdp/{}", resource.id),
        })
        .collect();
    tracing::info!(step = 5, user = %user.name, resources = resources.len(), "Returned the feed");
    Ok(Json(Feed { workspace: config.workspace.to_string(), user: user.name, resources }))
}

/// `GET /api/feed/rdp/{id}` (step 5): the signed connection configuration.
pub async fn rdp_file(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let user = authenticate(&shared, &headers).await?;
    let config = shared.config();
    let resource = id
        .trim_end_matches(".rdp")
        .parse()
        .ok()
        .and_then(|id: ResourceId| config.resource(&id))
        .ok_or_else(|| Refusal::new(Code::ResourceUnknown))?;
    if !resource.is_assigned_to(&user.name, &user.groups) {
        return Err(Code::NotAssigned.into());
    }
    let gateway = entry_gateway(&shared).await?;
    let file = compose(&config.workspace, resource, &gateway);
    let signed = shared.signer.get().sign(&file).map_err(|error| {
        tracing::error!(%error, "Cannot sign an .rdp file");
        Refusal::new(Code::Internal)
    })?;
    tracing::info!(step = 5, user = %user.name, resource = %resource.id, "Signed an .rdp file");
    shared.teller.tell(5, None, format!("signed {}.rdp for {}", resource.id, user.name));
    let disposition = format!("attachment; filename=\"{}.rdp\"", resource.id);
    let mut response = signed.to_bytes().into_response();
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-rdp"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        head.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// Steps 3 and 4.
async fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<User, Refusal> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| bearer_token(value.to_str().ok()?))
        .ok_or_else(|| Refusal::new(Code::TokenMissing))?;
    shared.teller.tell(3, None, "token received");
    let user = shared.identity.judge(bearer).await.inspect_err(|refusal| {
        tracing::warn!(step = 4, %refusal, "Refused a token");
    })?;
    tracing::info!(step = 4, user = %user.name, "Validated a token");
    shared.teller.tell(4, None, format!("{} signed in", user.name));
    Ok(user)
}

/// `host:port` that .rdp files name.
async fn entry_gateway(shared: &Shared) -> Result<String, Refusal> {
    if let Some(gateway) = &shared.config().entry_gateway {
        return Ok(gateway.clone());
    }
    let gateways = shared.core.snapshot().await.gateways;
    let gateway = gateways.iter().find(|gateway| !gateway.draining).or(gateways.first());
    let url = gateway.map(|gateway| gateway.url.as_str()).ok_or(Code::NoGateway)?;
    Ok(url.trim_start_matches("https://").trim_end_matches('/').to_owned())
}

/// The settings of a resource. `gateway*` and `loadbalanceinfo` are among those
/// that a signature can cover, so nobody can send a user elsewhere.
fn compose(workspace: &ResourceId, resource: &Resource, gateway: &str) -> RdpFile {
    let mut file = RdpFile::new();
    let app_mode = i64::from(resource.kind == ResourceKind::RemoteApp);
    // Clients insist on an address; the gateway decides where it goes.
    file.set_string("full address", resource.id.as_str());
    file.set_string("alternate full address", resource.id.as_str());
    file.set_string("gatewayhostname", gateway);
    file.set_integer("gatewayusagemethod", 1);
    file.set_integer("gatewayprofileusagemethod", 1);
    file.set_integer("gatewaycredentialssource", 5);
    file.set_string("resourceprovider", "arm");
    file.set_string("loadbalanceinfo", &load_balance_info(workspace, &resource.id));
    file.set_string("remoteapplicationprogram", &application(&resource.id));
    file.set_integer("remoteapplicationmode", app_mode);
    if resource.kind == ResourceKind::RemoteApp {
        file.set_string("remoteapplicationname", &resource.title);
    }
    file.set_integer("authentication level", 2);
    file.set_integer("enablerdsaadauth", 1);
    file
}
