//! The feed for stock clients (MS-TSWP): one address per workspace, and the
//! addresses at which clients look for one.

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::{access, conditional, entity_tag, files, given_to, rdp_path, workspace_path};
use crate::broker::Shared;
use crate::broker::http::Refused;
use crate::config::broker::{BrokerConfig, Workspace};
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::ResourceId;
use crate::wire::tswp::{Published, Publisher, Schema};

/// `GET /feed/{workspace}` (steps 3 to 5).
pub async fn workspace(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    feed(&shared, &name, &headers)
        .await
        .unwrap_or_else(|refusal| access::challenge(&headers, refusal))
}

async fn feed(shared: &Shared, name: &str, headers: &HeaderMap) -> Result<Response, Refusal> {
    let user = access::user(shared, headers).await?;
    let config = shared.config();
    let workspace = named(&config, name)?;
    let mut resources = Vec::new();
    for given in given_to(shared, &config, &user).await {
        let resource = given.resource;
        if *config.workspace_of(resource) != workspace.name {
            continue;
        }
        resources.push(Published {
            id: resource.id.to_string(),
            title: resource.title.clone(),
            kind: resource.kind,
            last_updated: given.changed_at(shared).await,
            rdp_url: format!("{}.rdp", rdp_path(&resource.id)),
            icon_url: files::icon_path(&resource.id),
            icon_url_of_size: files::icon_path_of_size(&resource.id),
        });
    }
    let public_url = &config.public_url;
    let server_name = public_url
        .parse::<crate::dial::Endpoint>()
        .map_or_else(|_| public_url.clone(), |endpoint| endpoint.host().to_owned());
    let publisher = Publisher {
        id: guid(&format!("{public_url}{}", workspace_path(&workspace.name))),
        name: workspace.title().to_owned(),
        description: workspace.description,
        last_updated: resources.iter().map(|r| r.last_updated).max().unwrap_or(UnixMillis(0)),
        server_name,
        resources,
    };
    tracing::info!(
        step = 5, user = %user.name, workspace = %workspace.name,
        resources = publisher.resources.len(), "Returned the feed"
    );
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let schema = Schema::asked_for(accept.unwrap_or_default());
    let xml = publisher.to_xml(schema);
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(schema.content_type()))];
    Ok(conditional(headers, &entity_tag(xml.as_bytes()), "private, no-cache", || {
        (kind, xml).into_response()
    }))
}

/// A well-known address: to the feed that is meant when none is named.
pub async fn default_workspace(State(shared): State<Arc<Shared>>) -> Response {
    access::found(&workspace_path(shared.config().default_workspace()))
}

/// A well-known address behind that of a feed: back to the feed.
pub async fn found_workspace(Path(name): Path<String>) -> Result<Response, Refused> {
    let name: ResourceId = name.parse().map_err(|_| Code::NotFound)?;
    Ok(access::found(&workspace_path(&name)))
}

fn named(config: &BrokerConfig, name: &str) -> Result<Workspace, Refusal> {
    let all = config.all_workspaces().into_iter();
    let mut named = all.filter(|workspace| workspace.name.as_str() == name);
    named.next().ok_or_else(|| Code::NotFound.into())
}

/// The same text is always the same GUID (RFC 9562 5.8), and no other text's.
fn guid(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut hex = hex::encode(hash.as_ref());
    hex.truncate(32);
    hex.replace_range(12..13, "8");
    hex.replace_range(16..17, "8");
    for place in [20, 16, 12, 8] {
        hex.insert(place, '-');
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_stable_and_well_formed() {
        let id = guid("https://broker/feed/office");
        assert_eq!(id, guid("https://broker/feed/office"));
        assert_ne!(id, guid("https://broker/feed/lab"));
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        assert_eq!((&id[14..15], &id[19..20]), ("8", "8"));
    }
}
