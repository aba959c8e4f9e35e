//! From a user's request to something that can be placed: who asks, what for,
//! and may they (first half of step 8).

use serde_json::json;
use tokio::time::Instant;

use super::Shared;
use super::identity::User;
use super::orchestrate::Judged;
use crate::config::broker::{BrokerConfig, Resource};
use crate::core::audit::Action;
use crate::core::codes::{Code, Refusal};
use crate::core::selection::RANKED_MAX;
use crate::wire::channel::PlaceRequest;
use crate::wire::resource_name::ResourceName;

const CLIENT_ADDRESS_CHARS_MAX: usize = 64;

/// Judges a request that a gateway passed on.
///
/// # Errors
/// What the user is told.
pub async fn judge(shared: &Shared, mut place: PlaceRequest) -> Result<Judged, Refusal> {
    let asked_at = Instant::now();
    let user = shared.identity.judge(place.bearer.expose()).await.inspect_err(|refusal| {
        let detail = json!({ "code": refusal.code, "at": "gateway" });
        shared.audit.record(Action::SignInRefused, "-", &detail);
    })?;
    let config = shared.config();
    let resource = resolve(&config, &place.load_balance_info, &place.application)?;
    if !resource.is_assigned_to(&user.name, &user.groups) {
        let detail = format!("{} is not assigned to {}", resource.id, user.name);
        let code = Code::NotAssigned;
        let refused = json!({ "user": user.name, "resource": resource.id, "code": code });
        shared.audit.record(Action::PlaceRefused, place.session, &refused);
        return Err(Refusal::with_detail(Code::NotAssigned, detail));
    }
    check_strength(&config, resource, &user)?;
    tracing::info!(
        step = 8, session = %place.session, user = %user.name, resource = %resource.id,
        "Validated a connection request"
    );
    shared.teller.tell(8, Some(place.session), format!("{} may have {}", user.name, resource.id));
    // No gateway sends more, or makes the broker look at more.
    place.explain.shorten(RANKED_MAX);
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
        here_only: place.here_only,
        asked_at,
    })
}

/// Whether the user signed in as the resource's pool asks.
fn check_strength(config: &BrokerConfig, resource: &Resource, user: &User) -> Result<(), Refusal> {
    let Some(pool) = config.pool(&resource.pool) else { return Ok(()) };
    let missing = pool.require_amr.iter().find(|method| !user.amr.contains(method));
    let problem = if let Some(method) = missing {
        format!("pool {} asks for amr {method:?}, the token has {:?}", pool.name, user.amr)
    } else if !pool.require_acr.is_empty()
        && !user.acr.as_ref().is_some_and(|acr| pool.require_acr.contains(acr))
    {
        let (one_of, has) = (&pool.require_acr, user.acr.as_deref().unwrap_or_default());
        format!("pool {} asks for acr {one_of:?}, the token has {has:?}", pool.name)
    } else {
        return Ok(());
    };
    Err(Refusal::with_detail(Code::AuthenticationTooWeak, problem).curbed())
}

/// Finds what is asked for: an `.rdp` file's resource, or the target of an RD
/// Gateway channel, which comes as the application.
fn resolve<'a>(
    config: &'a BrokerConfig,
    load_balance_info: &str,
    application: &str,
) -> Result<&'a Resource, Refusal> {
    let named = |name: ResourceName| {
        let found = config.resource(&name.resource)?;
        let is_in = |workspace| config.workspace_of(found) == workspace;
        name.workspace.as_ref().is_none_or(is_in).then_some(found)
    };
    let by_file = || ResourceName::of_rdp_file(load_balance_info, application).and_then(named);
    let by_target = || ResourceName::of_target(application).find_map(named);
    let found = by_file().or_else(|| load_balance_info.is_empty().then(by_target).flatten());
    found.ok_or_else(|| Code::ResourceUnknown.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_may_ask_how_its_users_signed_in() {
        let weak = |pool: &str, amr: &[&str], acr: Option<&str>| {
            let config: BrokerConfig = toml::from_str(&format!(
                "listen = '127.0.0.1:0'\npublic_url = 'https://b'\nstate_dir = 's'\n\
                 resources = [{{ id = 'a', title = 'A', pool = 'p' }}]\n\
                 [[pools]]\nname = 'p'\n{pool}"
            ))
            .unwrap();
            let user = User {
                name: "ann".into(),
                display_name: "Ann".into(),
                groups: vec![],
                amr: amr.iter().map(|&method| method.to_owned()).collect(),
                acr: acr.map(str::to_owned),
            };
            let checked = check_strength(&config, &config.resources[0], &user);
            checked.err().map(|refusal| refusal.code)
        };
        let too_weak = Some(Code::AuthenticationTooWeak);
        assert_eq!(weak("", &[], None), None);
        let all_of = "require_amr = ['mfa', 'hwk']";
        assert_eq!(weak(all_of, &["pwd", "hwk", "mfa"], None), None);
        assert_eq!(weak(all_of, &["pwd", "mfa"], None), too_weak);
        assert_eq!(weak(all_of, &[], Some("mfa")), too_weak);
        let one_of = "require_acr = ['gold', 'silver']";
        assert_eq!(weak(one_of, &[], Some("silver")), None);
        assert_eq!(weak(one_of, &["gold"], Some("bronze")), too_weak);
        assert_eq!(weak(one_of, &[], None), too_weak);
        let both = "require_amr = ['mfa']\nrequire_acr = ['gold']";
        assert_eq!(weak(both, &["mfa"], Some("gold")), None);
        assert_eq!(weak(both, &["mfa"], None), too_weak);
        assert_eq!(weak(both, &[], Some("gold")), too_weak);
    }

    #[test]
    fn a_resource_is_found_by_either_field_or_as_a_target() {
        let config: BrokerConfig = toml::from_str(
            r#"
            listen = "127.0.0.1:0"
            public_url = "https://b"
            state_dir = "s"
            workspace = "acme"
            workspaces = [{ name = "acme" }, { name = "lab" }]
            resources = [
                { id = "a", title = "A", pool = "p" }, { id = "b", title = "B", pool = "p" },
                { id = "l", title = "L", pool = "p", workspace = "lab" },
            ]
            "#,
        )
        .unwrap();
        let id = |info: &str, application: &str| {
            resolve(&config, info, application).map(|r| r.id.to_string()).map_err(|r| r.code)
        };
        assert_eq!(id("ringway:acme/a", "||b").unwrap(), "a");
        assert_eq!(id("ringway:acme/a\r\n", "").unwrap(), "a");
        assert_eq!(id("ringway:lab/l", "").unwrap(), "l");
        assert_eq!(id("", "||b").unwrap(), "b");
        assert_eq!(id("tsv://something", "b").unwrap(), "b");
        assert_eq!(id("", "L.Lab").unwrap(), "l");
        assert_eq!(id("", "b.acme").unwrap(), "b");
        for (info, application) in [
            ("ringway:other/a", "||a"),
            ("ringway:lab/a", "||a"),
            ("ringway:acme/l", ""),
            ("ringway:acme", "||a"),
            ("", ""),
            ("", "||c"),
            ("", "||A/"),
            ("ringway:lab/a", "l.lab"),
            ("mth://elsewhere", "l.lab"),
            ("", "a.lab"),
        ] {
            assert_eq!(id(info, application), Err(Code::ResourceUnknown), "{info} {application}");
        }
    }
}
