//! The `[broker]` table.
//!
//! Only what a site must decide is required: where to listen, under which
//! address the broker is reached, where its state lives, who may sign in, and
//! which pools and resources exist. Every limit has a default and its unit in
//! the key.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use crate::core::ids::{PoolId, ResourceId};
use crate::core::placement::FillOrder;
use crate::core::tickets;
use crate::tls::settings::TlsSettings;
use crate::wire::feed::ResourceKind;

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
    /// A certificate of one's own instead of one from the broker's CA.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    #[serde(default)]
    pub tls: TlsSettings,
    #[serde(default)]
    pub limits: Limits,
    /// Name of the workspace, shown to users and part of `loadbalanceinfo`.
    #[serde(default = "default_workspace")]
    pub workspace: ResourceId,
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

/// Who may sign in.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// OIDC issuer; its `/.well-known/openid-configuration` is read.
    pub issuer: Option<String>,
    /// What `aud` must contain.
    pub audience: Option<String>,
    /// Told to clients, for their sign-in.
    pub client_id: Option<String>,
    /// Trust roots of a private issuer. Default: the public web's.
    pub ca_file: Option<PathBuf>,
    /// Signature algorithms that are accepted.
    pub algorithms: Vec<String>,
    /// Claim that names the user.
    pub user_claim: Option<String>,
    /// Claim that lists the groups.
    pub groups_claim: Option<String>,
    /// How far the issuer's clock may be off.
    pub leeway_s: Option<u64>,
    /// How long known keys are used while the issuer cannot be reached.
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

/// Interchangeable session hosts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub name: PoolId,
    #[serde(default)]
    pub placement: FillOrder,
    #[serde(default = "default_sessions_per_host_max")]
    pub sessions_per_host_max: u32,
}

const fn default_sessions_per_host_max() -> u32 {
    10
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
    /// Handshakes at once; further connections wait in the kernel.
    pub handshakes_max: usize,
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
    /// How often gateways get the gateway table.
    pub gateway_table_interval_ms: u64,
    /// One request to the identity provider.
    pub identity_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout_ms: 10_000,
            handshakes_max: 256,
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
            gateway_table_interval_ms: 1_000,
            identity_timeout_ms: 5_000,
        }
    }
}

impl BrokerConfig {
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket.clone().unwrap_or_else(|| self.state_dir.join("admin.sock"))
    }

    #[must_use]
    pub fn resource(&self, id: &ResourceId) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.id == *id)
    }

    /// Checks what the syntax cannot say. `path` is the file, for messages.
    ///
    /// # Errors
    /// The first key that cannot be used, why, and what to do.
    pub fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let fail = |key, problem: String, remedy| {
            Err(ConfigError::Value { path: path.into(), key, problem, remedy })
        };
        if !is_https_origin(&self.public_url) {
            return fail(
                "broker.public_url",
                format!("{:?} is not https://host:port", self.public_url),
                "write the address that clients and machines use, without a path",
            );
        }
        match (&self.tls_certificate, &self.tls_key) {
            (None, None) if self.server_names.is_empty() => {
                return fail(
                    "broker.server_names",
                    "is empty, and there is no certificate of your own".into(),
                    "list the host names in public_url, or set tls_certificate and tls_key",
                );
            }
            (Some(_), None) | (None, Some(_)) => {
                return fail(
                    "broker.tls_certificate",
                    "only one of tls_certificate and tls_key is set".into(),
                    "set both or none",
                );
            }
            _ => {}
        }
        self.check_identity(path)?;
        self.check_resources(path)?;
        self.check_limits(path)
    }

    fn check_identity(&self, path: &Path) -> Result<(), ConfigError> {
        let fail = |key, problem: String, remedy| {
            Err(ConfigError::Value { path: path.into(), key, problem, remedy })
        };
        let identity = &self.identity;
        if let Some(issuer) = &identity.issuer {
            if !issuer.starts_with("https://") {
                return fail(
                    "broker.identity.issuer",
                    format!("{issuer:?} is not an https URL"),
                    "use the issuer's https URL, exactly as its tokens name it in iss",
                );
            }
            if identity.audience.is_none() {
                return fail(
                    "broker.identity.audience",
                    "is missing".into(),
                    "set what the tokens for this broker carry in aud",
                );
            }
        }
        for algorithm in identity.algorithms() {
            if !ALGORITHMS.contains(&algorithm.as_str()) {
                return fail(
                    "broker.identity.algorithms",
                    format!("{algorithm:?} is not a public key algorithm that is supported"),
                    "use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA",
                );
            }
        }
        for token in &identity.static_tokens {
            if token.token_sha256.len() != 64 || hex::decode(&token.token_sha256).is_err() {
                return fail(
                    "broker.identity.static_tokens",
                    format!("the token_sha256 of {:?} is not 64 hexadecimal digits", token.user),
                    "take the output of: printf %s TOKEN | sha256sum",
                );
            }
        }
        Ok(())
    }

    fn check_resources(&self, path: &Path) -> Result<(), ConfigError> {
        let fail = |key, problem: String, remedy| {
            Err(ConfigError::Value { path: path.into(), key, problem, remedy })
        };
        let mut pools = HashSet::new();
        for pool in &self.pools {
            if !pools.insert(&pool.name) {
                let problem = format!("{} is declared twice", pool.name);
                return fail("broker.pools", problem, "give each pool its own name");
            }
            if pool.sessions_per_host_max == 0 {
                return fail(
                    "broker.pools.sessions_per_host_max",
                    format!("is 0 for pool {}", pool.name),
                    "allow at least one session, or drain the hosts",
                );
            }
        }
        let mut resources = HashSet::new();
        for resource in &self.resources {
            if !resources.insert(&resource.id) {
                let problem = format!("{} is declared twice", resource.id);
                return fail("broker.resources", problem, "give each resource its own id");
            }
            if !pools.contains(&resource.pool) {
                return fail(
                    "broker.resources.pool",
                    format!("{} names pool {}, which is not declared", resource.id, resource.pool),
                    "declare the pool under [[broker.pools]] or correct its name",
                );
            }
            if resource.title.chars().any(char::is_control) {
                return fail(
                    "broker.resources.title",
                    format!("the title of {} has a control character", resource.id),
                    "write the title on one line",
                );
            }
        }
        Ok(())
    }

    fn check_limits(&self, path: &Path) -> Result<(), ConfigError> {
        let fail = |key, problem: String, remedy| {
            Err(ConfigError::Value { path: path.into(), key, problem, remedy })
        };
        let limits = &self.limits;
        if limits.reservation_ms == 0 || limits.reservation_ms > tickets::LIFETIME_MS_MAX {
            return fail(
                "broker.limits.reservation_ms",
                format!(
                    "{} is not between 1 and {}",
                    limits.reservation_ms,
                    tickets::LIFETIME_MS_MAX
                ),
                "no ticket lives longer than a minute; keep the default of 30000",
            );
        }
        let none_is_zero = [
            limits.handshake_timeout_ms,
            limits.request_timeout_ms,
            limits.heartbeat_interval_ms,
            limits.heartbeat_timeout_ms,
            limits.order_answer_timeout_ms,
            limits.start_timeout_ms,
            limits.gateway_table_interval_ms,
            limits.identity_timeout_ms,
            limits.handshakes_max as u64,
            limits.connections_max as u64,
            limits.channel_queue_max as u64,
            limits.command_queue_max as u64,
        ];
        if none_is_zero.contains(&0) {
            return fail(
                "broker.limits",
                "a time-out, interval or maximum is 0".into(),
                "remove the key to get its default",
            );
        }
        Ok(())
    }
}

/// Public key signatures only: a shared secret would let every verifier sign.
const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// `https://host[:port]` and nothing after it.
fn is_https_origin(url: &str) -> bool {
    url.strip_prefix("https://").is_some_and(|rest| {
        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        listen = "127.0.0.1:0"
        public_url = "https://broker.example:8443"
        server_names = ["broker.example"]
        state_dir = "/var/lib/ringway"
        [[pools]]
        name = "office"
        [[resources]]
        id = "desktop"
        title = "Office desktop"
        pool = "office"
        users = ["ann"]
        groups = ["staff"]
    "#;

    fn parse(text: &str) -> BrokerConfig {
        toml::from_str(text).unwrap()
    }

    fn problem(text: &str) -> String {
        parse(text).check(Path::new("broker.toml")).unwrap_err().to_string()
    }

    #[test]
    fn a_small_file_is_enough() {
        let config = parse(SMALL);
        config.check(Path::new("broker.toml")).unwrap();
        assert_eq!(config.workspace.as_str(), "ringway");
        assert_eq!(config.admin_socket(), Path::new("/var/lib/ringway/admin.sock"));
        let desktop = config.resource(&"desktop".parse().unwrap()).unwrap();
        assert!(desktop.is_assigned_to("ann", &[]));
        assert!(desktop.is_assigned_to("bob", &["staff".into()]));
        assert!(!desktop.is_assigned_to("bob", &["guests".into()]));
    }

    #[test]
    fn each_mistake_names_its_key() {
        for (from, to, key) in [
            ("https://broker.example:8443", "http://broker.example", "broker.public_url"),
            ("[\"broker.example\"]", "[]", "broker.server_names"),
            ("state_dir", "tls_key = \"k\"\nstate_dir", "broker.tls_certificate"),
            ("pool = \"office\"", "pool = \"nowhere\"", "broker.resources.pool"),
            (
                "name = \"office\"",
                "name = \"office\"\nsessions_per_host_max = 0",
                "sessions_per_host_max",
            ),
            (
                "[[pools]]",
                "[limits]\nreservation_ms = 60001\n[[pools]]",
                "broker.limits.reservation_ms",
            ),
            ("[[pools]]", "[limits]\nconnections_max = 0\n[[pools]]", "broker.limits"),
            (
                "[[pools]]",
                "[identity]\nissuer = \"https://i\"\n[[pools]]",
                "broker.identity.audience",
            ),
            (
                "[[pools]]",
                "[identity]\nalgorithms = [\"HS256\"]\n[[pools]]",
                "broker.identity.algorithms",
            ),
            (
                "[[pools]]",
                "[identity]\nstatic_tokens = [{ user = \"a\", token_sha256 = \"ab\" }]\n[[pools]]",
                "broker.identity.static_tokens",
            ),
        ] {
            let message = problem(&SMALL.replacen(from, to, 1));
            assert!(message.contains(key), "{key}: {message}");
        }
    }

    #[test]
    fn unknown_keys_are_errors() {
        assert!(toml::from_str::<BrokerConfig>(&SMALL.replace("listen", "lisen")).is_err());
    }
}
