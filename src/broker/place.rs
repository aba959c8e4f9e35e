//! From a user's request to something that can be placed: who asks, what for,
//! and may they (first half of step 8).

use super::Shared;
use super::orchestrate::Judged;
use crate::config::broker::{BrokerConfig, Resource};
use crate::core::codes::{Code, Refusal};
use crate::core::ids::ResourceId;
use crate::wire::channel::PlaceRequest;

const EXPLAIN_LINES_MAX: usize = 256;
const CLIENT_ADDRESS_CHARS_MAX: usize = 64;

/// Judges a request that a gateway passed on.
///
/// # Errors
/// What the user is told.
pub async fn judge(shared: &Shared, mut place: PlaceRequest) -> Result<Judged, Refusal> {
    let user = shared.identity.judge(place.bearer.expose()).await?;
    let config = shared.config();
    let resource = resolve(&config, &place.load_balance_info, &place.application)?;
    if !resource.is_assigned_to(&user.name, &user.groups) {
        let detail = format!("{} is not assigned to {}", resource.id, user.name);
        return Err(Refusal::with_detail(Code::NotAssigned, detail));
    }
    tracing::info!(
        step = 8, session = %place.session, user = %user.name, resource = %resource.id,
        "Validated a connection request"
    );
    shared.teller.tell(8, Some(place.session), format!("{} may have {}", user.name, resource.id));
    // Kept with the session: an entry gateway cannot make the record large.
    place.explain.lines.truncate(EXPLAIN_LINES_MAX);
    place.client_address = place.client_address.chars().take(CLIENT_ADDRESS_CHARS_MAX).collect();
    Ok(Judged {
        request: place.request,
        session: place.session,
        user: user.name,
        resource: resource.id.clone(),
        pool: resource.pool.clone(),
        client_address: place.client_address,
        gateway: place.gateway,
        explain: place.explain,
    })
}

/// `loadbalanceinfo` of a resource.
#[must_use]
pub fn load_balance_info(workspace: &ResourceId, resource: &ResourceId) -> String {
    format!("ringway:{workspace}/{resource}")
}

/// `remoteapplicationprogram` of a resource.
#[must_use]
pub fn application(resource: &ResourceId) -> String {
    format!("||{resource}")
}

/// Finds the resource: `loadbalanceinfo` decides when it is ours, else
/// `remoteapplicationprogram`.
fn resolve<'a>(
    config: &'a BrokerConfig,
    load_balance_info: &str,
    application: &str,
) -> Result<&'a Resource, Refusal> {
    let id = match load_balance_info.trim().strip_prefix("ringway:") {
        Some(path) => path
            .split_once('/')
            .filter(|(workspace, _)| *workspace == config.workspace.as_str())
            .map(|(_, id)| id),
        None => Some(application.trim().trim_start_matches('|')),
    };
    id.and_then(|id| id.parse().ok())
        .and_then(|id: ResourceId| config.resource(&id))
        .ok_or_else(|| Refusal::new(Code::ResourceUnknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_field_names_the_resource_and_ours_wins() {
        let config: BrokerConfig = toml::from_str(
            r#"
            listen = "127.0.0.1:0"
            public_url = "https://b"
            state_dir = "s"
            workspace = "acme"
            resources = [
                { id = "a", title = "A", pool = "p" }, { id = "b", title = "B", pool = "p" },
            ]
            "#,
        )
        .unwrap();
        let id = |info: &str, application: &str| {
            resolve(&config, info, application).map(|r| r.id.to_string()).map_err(|r| r.code)
        };
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let workspace = &config.workspace;
        assert_eq!(id(&load_balance_info(workspace, &a), &application(&b)).unwrap(), "a");
        assert_eq!(id("ringway:acme/a\r\n", "").unwrap(), "a");
        assert_eq!(id("", "||b").unwrap(), "b");
        assert_eq!(id("tsv://something", "b").unwrap(), "b");
        for (info, application) in [
            ("ringway:other/a", "||a"),
            ("ringway:acme", "||a"),
            ("", ""),
            ("", "||c"),
            ("", "||A/"),
        ] {
            assert_eq!(id(info, application), Err(Code::ResourceUnknown), "{info} {application}");
        }
    }
}
