//! What of a changed configuration a running broker takes over: see
//! [`crate::config::reload`].

use std::path::PathBuf;

use tokio::sync::oneshot;

use super::orchestrate::Command;
use super::{Shared, rdp_signer, served_certificate};
use crate::config::File;
use crate::config::broker::{BrokerConfig, Limits};
use crate::config::reload::{RoleConfig, Unusable};
use crate::config::state_dir::StateDir;
use crate::core::clock::UnixMillis;

impl RoleConfig for BrokerConfig {
    const TABLE: &'static str = "[broker]";

    const LIVE: &'static [&'static str] = &[
        "broker.admin_tokens",
        "broker.allow_any_server_name",
        "broker.entry_gateway",
        "broker.identity.static_tokens",
        "broker.limits.channel_queue_max",
        "broker.limits.feed_cookie_lifetime_ms",
        "broker.limits.gateway_table_interval_ms",
        "broker.limits.host_failure_pause_ms",
        "broker.limits.order_answer_timeout_ms",
        "broker.limits.orphan_grace_ms",
        "broker.limits.reservation_ms",
        "broker.limits.reservations_per_user_max",
        "broker.limits.start_commands_max",
        "broker.limits.start_timeout_ms",
        "broker.pools",
        "broker.resources",
        "broker.server_names",
        "broker.signing",
        "broker.tls_certificate",
        "broker.tls_key",
        "broker.workspaces",
    ];

    fn of(file: File) -> Option<Self> {
        file.broker
    }

    fn files(&self) -> Vec<PathBuf> {
        let signing = self.signing.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        self.tls_certificate.iter().chain(&self.tls_key).chain(signing).cloned().collect()
    }
}

/// Takes over what [`RoleConfig::LIVE`] names, or nothing.
pub(super) async fn adopt(shared: &Shared, new: BrokerConfig) -> Result<(), Unusable> {
    let old = shared.config();
    let now = UnixMillis::now();
    let next = merged(&old, new);
    let pair_is_ours = |config: &BrokerConfig| config.tls_certificate.is_none();
    // Our own CA's lasts for years: a new one only for other names.
    let stays = pair_is_ours(&old) && pair_is_ours(&next) && old.server_names == next.server_names;
    let certificate = if stays {
        None
    } else {
        let served = served_certificate(&next, &shared.authority, now);
        Some(served.map_err(|error| {
            let remedy = "the certificate in use stays; give a certificate and its key";
            Unusable::new("broker.tls_certificate", format!("{error:#}"), remedy)
        })?)
    };
    let signer = StateDir::open(&next.state_dir)
        .map_err(anyhow::Error::from)
        .and_then(|state| rdp_signer(&next, &shared.authority, &state, now))
        .map_err(|error| {
            let remedy = "the one in use stays; give a certificate and its key";
            Unusable::new("broker.signing", format!("{error:#}"), remedy)
        })?;

    // Nothing fails from here on.
    if let Some(certificate) = certificate {
        shared.certificate.become_like(&certificate);
    }
    shared.signer.replace(signer);
    shared.identity.replace_static_tokens(&next.identity.static_tokens);
    let (done, is_done) = oneshot::channel();
    let (limits, pools) = (next.limits, next.pools.clone());
    shared.core.send(Command::Reload { limits, pools, done }).await;
    let _stopping = is_done.await;
    shared.config.replace(next);
    Ok(())
}

/// The old configuration with all of the new one that can change.
fn merged(old: &BrokerConfig, new: BrokerConfig) -> BrokerConfig {
    let mut next = BrokerConfig {
        server_names: new.server_names,
        allow_any_server_name: new.allow_any_server_name,
        tls_certificate: new.tls_certificate,
        tls_key: new.tls_key,
        admin_tokens: new.admin_tokens,
        limits: merged_limits(&old.limits, &new.limits),
        pools: new.pools,
        resources: new.resources,
        workspaces: new.workspaces,
        entry_gateway: new.entry_gateway,
        signing: new.signing,
        ..old.clone()
    };
    next.identity.static_tokens = new.identity.static_tokens;
    next
}

/// The port's limits are built into it.
fn merged_limits(old: &Limits, new: &Limits) -> Limits {
    Limits {
        channel_queue_max: new.channel_queue_max,
        order_answer_timeout_ms: new.order_answer_timeout_ms,
        reservation_ms: new.reservation_ms,
        start_timeout_ms: new.start_timeout_ms,
        orphan_grace_ms: new.orphan_grace_ms,
        host_failure_pause_ms: new.host_failure_pause_ms,
        reservations_per_user_max: new.reservations_per_user_max,
        gateway_table_interval_ms: new.gateway_table_interval_ms,
        start_commands_max: new.start_commands_max,
        feed_cookie_lifetime_ms: new.feed_cookie_lifetime_ms,
        ..*old
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::testing::{World, config};
    use crate::config::reload::testing::assert_live_is_what_is_merged;
    use crate::wire::enroll::MachineRole;

    #[test]
    fn what_is_taken_over_is_what_is_declared_to_be() {
        assert_live_is_what_is_merged(merged);
    }

    #[tokio::test]
    async fn limits_of_a_pool_change_under_hosts_that_are_here() {
        let world = World::start("").await;
        let host = world.enrol(MachineRole::Agent, "host-1").await;
        let _agent = world.agent(&host, &[]).await;
        let sessions_max = async || world.broker.snapshot().await.hosts[0].sessions_max;
        assert_eq!(sessions_max().await, 5);
        let mut next = config(world.dir.path(), "", "");
        next.pools[0].sessions_per_host_max = 3;
        adopt(&world.broker.shared, next.clone()).await.unwrap();
        assert_eq!(sessions_max().await, 3);
        // A pool that is gone takes nobody.
        next.pools.clear();
        next.resources.clear();
        adopt(&world.broker.shared, next).await.unwrap();
        assert_eq!(sessions_max().await, 0);
    }

    #[tokio::test]
    async fn nothing_is_taken_over_when_something_cannot_be() {
        let world = World::start("").await;
        let shared = &world.broker.shared;
        let before = shared.certificate.chain();
        let mut next = config(world.dir.path(), "", "");
        next.pools.clear();
        next.tls_certificate = Some("/nowhere.crt".into());
        next.tls_key = Some("/nowhere.key".into());
        let unusable = adopt(shared, next).await.unwrap_err();
        assert_eq!(unusable.key, "broker.tls_certificate");
        assert!(unusable.problem.contains("/nowhere.crt"), "{}", unusable.problem);
        assert_eq!((shared.config().pools.len(), shared.certificate.chain()), (1, before));
    }

    #[tokio::test]
    async fn our_own_certificate_is_made_anew_for_other_names_only() {
        let world = World::start("").await;
        let shared = &world.broker.shared;
        let before = shared.certificate.chain();
        let mut next = config(world.dir.path(), "", "");
        adopt(shared, next.clone()).await.unwrap();
        assert_eq!(shared.certificate.chain(), before);
        next.server_names.push("broker.example".into());
        adopt(shared, next).await.unwrap();
        assert_ne!(shared.certificate.chain(), before);
    }
}
