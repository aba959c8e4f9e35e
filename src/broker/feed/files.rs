//! What belongs to one resource: its signed `.rdp` file and its icons.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::{access, conditional, entity_tag, icon};
use crate::broker::Shared;
use crate::broker::http::Refused;
use crate::config::broker::{BrokerConfig, Resource};
use crate::core::codes::{Code, Refusal};
use crate::core::ids::ResourceId;
use crate::wire::feed::{ResourceKind, file_stem};
use crate::wire::rdp_file::RdpFile;
use crate::wire::resource_name::ResourceName;
use crate::wire::tswp::ICON_SIZES;

/// `GET /api/feed/rdp/{id}`, with or without `.rdp` behind it (step 5): the
/// signed connection configuration.
pub async fn rdp(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    signed(&shared, &name, &headers)
        .await
        .unwrap_or_else(|refusal| access::challenge_if_cookie(&headers, refusal))
}

async fn signed(shared: &Shared, name: &str, headers: &HeaderMap) -> Result<Response, Refusal> {
    let config = shared.config();
    let (user, resource) =
        given(shared, &config, name.strip_suffix(".rdp").unwrap_or(name), headers).await?;
    let gateway = entry_gateway(shared).await?;
    let tag = format!("\"{}\"", revision(shared, &config, resource, &gateway));
    Ok(conditional(headers, &tag, "private, no-cache", || {
        let signed = match shared.signer.get().sign(&compose(&config, resource, &gateway)) {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(%error, "Cannot sign an .rdp file");
                return Refused(Code::Internal.into()).into_response();
            }
        };
        tracing::info!(step = 5, %user, resource = %resource.id, "Signed an .rdp file");
        shared.teller.tell(5, None, format!("signed {}.rdp for {user}", resource.id));
        let mut response = signed.to_bytes().into_response();
        let head = response.headers_mut();
        head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-rdp"));
        if let Ok(disposition) = HeaderValue::from_str(&disposition(resource)) {
            head.insert(header::CONTENT_DISPOSITION, disposition);
        }
        response
    }))
}

/// `GET /api/feed/icons/{id}.ico` and `{id}-{size}.png`.
pub async fn icon(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    drawn(&shared, &name, &headers)
        .await
        .unwrap_or_else(|refusal| access::challenge_if_cookie(&headers, refusal))
}

async fn drawn(shared: &Shared, name: &str, headers: &HeaderMap) -> Result<Response, Refusal> {
    let (id, size) = match name.strip_suffix(".ico") {
        Some(id) => (id, None),
        None => {
            let png = name.strip_suffix(".png").and_then(|name| name.rsplit_once('-'));
            let (id, size) = png.ok_or(Code::NotFound)?;
            let size = ICON_SIZES.into_iter().find(|known| known.to_string() == size);
            (id, Some(size.ok_or(Code::NotFound)?))
        }
    };
    let config = shared.config();
    let (_user, resource) = given(shared, &config, id, headers).await?;
    let (bytes, kind) = match size {
        Some(size) => (icon::png(resource.kind, resource.id.as_str(), size), "image/png"),
        None => (icon::ico(resource.kind, resource.id.as_str()), "image/vnd.microsoft.icon"),
    };
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
    Ok(conditional(headers, &entity_tag(&bytes), "private, max-age=86400", || {
        (kind, bytes).into_response()
    }))
}

/// Path of the icon file with all sizes.
pub fn icon_path(id: &ResourceId) -> String {
    format!("/api/feed/icons/{id}.ico")
}

/// Path of the icon of one size; the size stands for `{size}`.
pub fn icon_path_of_size(id: &ResourceId) -> String {
    format!("/api/feed/icons/{id}-{{size}}.png")
}

/// A resource that the asking user was given, and that user's name.
async fn given<'a>(
    shared: &Shared,
    config: &'a BrokerConfig,
    id: &str,
    headers: &HeaderMap,
) -> Result<(String, &'a Resource), Refusal> {
    let user = access::user(shared, headers).await?;
    let resource = id.parse().ok().and_then(|id: ResourceId| config.resource(&id));
    let resource = resource.ok_or(Code::ResourceUnknown)?;
    if !resource.is_assigned_to(&user.name, &user.groups) {
        return Err(Code::NotAssigned.into());
    }
    Ok((user.name, resource))
}

/// `host:port` that .rdp files name.
///
/// # Errors
/// [`Code::NoGateway`] when none is configured and none is connected.
pub async fn entry_gateway(shared: &Shared) -> Result<String, Refusal> {
    if let Some(gateway) = &shared.config().entry_gateway {
        return Ok(gateway.clone());
    }
    let gateways = shared.core.snapshot().await.gateways;
    let gateway = gateways.iter().find(|gateway| !gateway.draining).or(gateways.first());
    let url = gateway.map(|gateway| gateway.url.as_str()).ok_or(Code::NoGateway)?;
    Ok(url.trim_start_matches("https://").trim_end_matches('/').to_owned())
}

/// Changes when something does that a client has: the settings of the file, who
/// signs it, the title.
pub fn revision(
    shared: &Shared,
    config: &BrokerConfig,
    resource: &Resource,
    gateway: &str,
) -> String {
    let file = compose(config, resource, gateway).to_text();
    let signer = shared.signer.get();
    let signer = signer.certificate_sha256();
    let all = format!("{file}\n{signer}\n{}\n{:?}", resource.title, resource.kind);
    entity_tag(all.as_bytes()).trim_matches('"').to_owned()
}

/// The settings of a resource. `gateway*` and `loadbalanceinfo` are among those
/// that a signature can cover, so nobody can send a user elsewhere.
fn compose(config: &BrokerConfig, resource: &Resource, gateway: &str) -> RdpFile {
    let mut file = RdpFile::new();
    let workspace = Some(config.workspace_of(resource).clone());
    let name = ResourceName { workspace, resource: resource.id.clone() };
    let app_mode = i64::from(resource.kind == ResourceKind::RemoteApp);
    // Clients insist on an address; the gateway decides where it goes.
    file.set_string("full address", resource.id.as_str());
    file.set_string("alternate full address", resource.id.as_str());
    file.set_string("gatewayhostname", gateway);
    file.set_integer("gatewayusagemethod", 1);
    file.set_integer("gatewayprofileusagemethod", 1);
    file.set_integer("gatewaycredentialssource", 5);
    file.set_string("resourceprovider", "arm");
    file.set_string("loadbalanceinfo", &name.load_balance_info());
    file.set_string("remoteapplicationprogram", &name.application());
    file.set_integer("remoteapplicationmode", app_mode);
    if resource.kind == ResourceKind::RemoteApp {
        file.set_string("remoteapplicationname", &resource.title);
    }
    file.set_integer("authentication level", 2);
    file.set_integer("enablerdsaadauth", 1);
    file
}

/// RFC 6266 4.3: the title for who reads RFC 8187, the id for the others.
fn disposition(resource: &Resource) -> String {
    let stem = file_stem(&resource.title, &resource.id);
    let encoded: String = stem.bytes().map(extended_value_byte).collect();
    format!("attachment; filename=\"{}.rdp\"; filename*=UTF-8''{encoded}.rdp", resource.id)
}

/// RFC 8187 3.2.1.
fn extended_value_byte(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"._+-".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}
