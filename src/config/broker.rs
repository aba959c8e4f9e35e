//! The `[broker]` table.
//!
//! Only what a site must decide is required: where to listen, under which
//! address the broker is reached, where its state lives, who may sign in, and
//! which pools and resources exist. Every limit has a default and its unit in
//! the key.

mod check;
mod pool;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::admin::Peers;
use crate::core::ids::{PoolId, ResourceId};
use crate::tls::listener::ListenerLimits;
use crate::tls::settings::TlsSettings;
use crate::wire::feed::ResourceKind;

pub use pool::{Kind, Pool};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// The one TCP port: channels, enrolment, feed. Port 0 lets the kernel
    /// choose.
    pub listen: SocketAddr,
    /// `https://host:port` under which machines and clients reach the broker.
    pub public_url: String,
    /// Names in the certificate that the broker issues itself.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// Database, CA and keys.
    pub state_dir: PathBuf,
    /// Default: `admin.sock` in the state directory.
    pub admin_socket: Option<PathBuf>,
    /// Accounts and primary groups that may use it, besides root and the
    /// service's own account.
    #[serde(default)]
    pub admin_uids: Vec<u32>,
    #[serde(default)]
    pub admin_gids: Vec<u32>,
    /// Who may administer over HTTPS. Default: nobody, and there is no such
    /// address.
    #[serde(default)]
    pub admin_tokens: Vec<AdminToken>,
    /// Whoever enrols a gateway chooses its server names, the broker's own and
    /// those of other gateways included. Default: only names that
    /// `ringway token create --server-name` bound to the token.
    #[serde(default)]
    pub allow_any_server_name: bool,
    /// A certificate of one's own instead of one from the broker's CA.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    #[serde(default)]
    pub tls: TlsSettings,
    #[serde(default)]
    pub limits: Limits,
    /// Days after which the key that signs tickets is replaced. 0: only by
    /// `ringway ctl rotate-keys`.
    #[serde(default = "default_ticket_key_days")]
    pub ticket_key_days: u32,
    /// The workspace of resources that name none; part of `loadbalanceinfo`.
    #[serde(default = "default_workspace")]
    pub workspace: ResourceId,
    /// Titles of workspaces, and further ones. Each has a feed of its own.
    /// Default: `workspace` alone.
    #[serde(default)]
    pub workspaces: Vec<Workspace>,
    #[serde(default)]
    pub identity: Identity,
    #[serde(default)]
    pub pools: Vec<Pool>,
    #[serde(default)]
    pub resources: Vec<Resource>,
    /// `host:port` of the gateway that .rdp files name. Default: the first
    /// connected gateway's.
    pub entry_gateway: Option<String>,
    /// Certificate and key that sign .rdp files. Default: issued by the
    /// broker's own CA.
    pub signing: Option<Signing>,
}

fn default_workspace() -> ResourceId {
    // A constant that is a valid name; see the test.
    "ringway".parse().unwrap_or_else(|_| unreachable!("the default workspace is a valid name"))
}

const fn default_ticket_key_days() -> u32 {
    30
}

/// A group of resources that users see under one name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    pub name: ResourceId,
    /// Shown to users. Default: the name.
    pub title: Option<String>,
    #[serde(default)]
    pub description: String,
}

impl Workspace {
    #[must_use]
    pub fn title(&self) -> &str {
        self.title.as_deref().unwrap_or(self.name.as_str())
    }
}

/// Who may sign in.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// OIDC issuer; its `/.well-known/openid-configuration` is read.
    pub issuer: Option<String>,
    /// What `aud` must contain.
    pub audience: Option<String>,
    /// Told to clients, for their sign-in; what `aud` of ID tokens must contain.
    pub client_id: Option<String>,
    /// What clients ask for when they sign in. Default: see
    /// [`Identity::scopes`].
    pub scopes: Vec<String>,
    /// Trust roots of a private issuer. Default: the public web's.
    pub ca_file: Option<PathBuf>,
    /// Signature algorithms that are accepted.
    pub algorithms: Vec<String>,
    /// Claim that names the user. Default: `sub`, which an issuer never gives
    /// to another user; most others can change hands.
    pub user_claim: Option<String>,
    /// Claim with the name that people are shown. Default: the first there is
    /// of `name`, `preferred_username` and `upn`.
    pub display_claim: Option<String>,
    /// Claim that lists the groups.
    pub groups_claim: Option<String>,
    /// How far the issuer's clock may be off.
    pub leeway_s: Option<u64>,
    /// How old the issuer's keys get before they are read again.
    pub refresh_s: Option<u64>,
    /// How long keys that are older are used while the issuer cannot be
    /// reached.
    pub offline_grace_s: Option<u64>,
    /// Tokens of people or machines without an issuer.
    pub static_tokens: Vec<StaticToken>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("static_tokens", &self.static_tokens.len())
            .finish_non_exhaustive()
    }
}

impl Identity {
    #[must_use]
    pub fn algorithms(&self) -> Vec<String> {
        if self.algorithms.is_empty() {
            vec!["RS256".into(), "ES256".into()]
        } else {
            self.algorithms.clone()
        }
    }

    /// Who it is, and a refresh token, so that people sign in once.
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        if self.scopes.is_empty() {
            ["openid", "profile", "offline_access"].map(str::to_owned).into()
        } else {
            self.scopes.clone()
        }
    }
}

/// One bearer token that is known by its hash.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticToken {
    pub user: String,
    #[serde(default)]
    pub groups: Vec<String>,
    /// SHA-256 of the token, in hex (`printf %s TOKEN | sha256sum`).
    pub token_sha256: String,
}

/// A token for `ringway ctl --url`, known by its hash.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminToken {
    /// Whose it is, for logs.
    pub name: String,
    /// SHA-256 of the token, in hex (`printf %s TOKEN | sha256sum`).
    pub token_sha256: String,
}

/// A desktop or application that users are given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    pub id: ResourceId,
    pub title: String,
    #[serde(rename = "type", default = "default_kind")]
    pub kind: ResourceKind,
    pub pool: PoolId,
    /// Default: the broker's `workspace`, or the first that is declared.
    pub workspace: Option<ResourceId>,
    /// Users by name; `*` is everyone who signed in.
    #[serde(default)]
    pub users: Vec<String>,
    #[serde(default)]
    pub groups: Vec<String>,
}

const fn default_kind() -> ResourceKind {
    ResourceKind::Desktop
}

impl Resource {
    /// Whether this user, a member of these groups, was given the resource.
    #[must_use]
    pub fn is_assigned_to(&self, user: &str, groups: &[String]) -> bool {
        self.users.iter().any(|u| u == "*" || u == user)
            || self.groups.iter().any(|g| groups.contains(g))
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signing {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Every limit of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// TLS handshake of one connection.
    pub handshake_timeout_ms: u64,
    /// Handshakes at once; further connections are dropped.
    pub handshakes_max: usize,
    /// Of those, from one address.
    pub handshakes_per_address_max: usize,
    /// Connections at once, channels included.
    pub connections_max: usize,
    /// One request that is not a channel.
    pub request_timeout_ms: u64,
    pub request_body_bytes_max: usize,
    pub heartbeat_interval_ms: u64,
    pub heartbeat_timeout_ms: u64,
    /// Messages waiting to be sent to one machine.
    pub channel_queue_max: usize,
    /// Messages and requests waiting for the one task that owns the table.
    pub command_queue_max: usize,
    /// From an order to the host's answer (steps 9 and 10).
    pub order_answer_timeout_ms: u64,
    /// From a placement to the client's arrival; also the client ticket's life.
    pub reservation_ms: u64,
    /// From the host's answer to the start of the relay.
    pub start_timeout_ms: u64,
    /// How long a live session is counted while neither its gateway nor its
    /// host is connected.
    pub orphan_grace_ms: u64,
    /// How long a host that refused, failed or did not answer an order is
    /// passed over while others have room. 0 switches it off.
    pub host_failure_pause_ms: u64,
    /// Places that one user may hold for sessions that are not live yet; the
    /// oldest that no client has come for gives way to a new one.
    pub reservations_per_user_max: usize,
    /// Start commands of all pools that run at once; further users are told to
    /// try again.
    pub start_commands_max: usize,
    /// How often gateways get the gateway table.
    pub gateway_table_interval_ms: u64,
    /// One request to the identity provider.
    pub identity_timeout_ms: u64,
    /// How long somebody who signed in at the feed stays signed in there.
    pub feed_cookie_lifetime_ms: u64,
}

impl Limits {
    /// What its port may hold.
    #[must_use]
    pub fn listener(&self) -> ListenerLimits {
        ListenerLimits {
            connections_max: self.connections_max,
            handshakes_max: self.handshakes_max,
            handshakes_per_address_max: self.handshakes_per_address_max,
            handshake_timeout_ms: self.handshake_timeout_ms,
            // Twice the time after which a silent channel is given up: whatever
            // is quiet for longer is neither a channel nor a request.
            idle_timeout_ms: self.heartbeat_timeout_ms.max(self.request_timeout_ms) * 2,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout_ms: 5_000,
            handshakes_max: 256,
            handshakes_per_address_max: 32,
            connections_max: 16_384,
            request_timeout_ms: 15_000,
            request_body_bytes_max: 64 * 1024,
            heartbeat_interval_ms: 5_000,
            heartbeat_timeout_ms: 10_000,
            channel_queue_max: 1_024,
            command_queue_max: 4_096,
            order_answer_timeout_ms: 1_000,
            reservation_ms: 30_000,
            start_timeout_ms: 30_000,
            orphan_grace_ms: 300_000,
            host_failure_pause_ms: 10_000,
            reservations_per_user_max: 3,
            start_commands_max: 8,
            gateway_table_interval_ms: 1_000,
            identity_timeout_ms: 5_000,
            feed_cookie_lifetime_ms: 3_600_000,
        }
    }
}

impl BrokerConfig {
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket.clone().unwrap_or_else(|| self.state_dir.join("admin.sock"))
    }

    /// The workspace of resources that name none.
    #[must_use]
    pub fn default_workspace(&self) -> &ResourceId {
        let declared = || self.workspaces.iter().map(|workspace| &workspace.name);
        declared()
            .find(|name| **name == self.workspace)
            .or(declared().next())
            .unwrap_or(&self.workspace)
    }

    /// All workspaces, in the order of the file.
    #[must_use]
    pub fn all_workspaces(&self) -> Vec<Workspace> {
        if !self.workspaces.is_empty() {
            return self.workspaces.clone();
        }
        let (name, description) = (self.workspace.clone(), String::new());
        vec![Workspace { name, title: None, description }]
    }

    #[must_use]
    pub fn workspace_of<'a>(&'a self, resource: &'a Resource) -> &'a ResourceId {
        resource.workspace.as_ref().unwrap_or_else(|| self.default_workspace())
    }

    #[must_use]
    pub fn pool(&self, name: &PoolId) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == *name)
    }

    #[must_use]
    pub fn admin_peers(&self) -> Peers {
        Peers { uids: self.admin_uids.clone(), gids: self.admin_gids.clone() }
    }

    #[must_use]
    pub fn resource(&self, id: &ResourceId) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.id == *id)
    }
}

#[cfg(test)]
mod tests;
