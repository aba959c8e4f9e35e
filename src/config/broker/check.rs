//! What the syntax cannot say: keys that need, contradict or name each other.

use std::collections::HashSet;
use std::path::Path;

use super::BrokerConfig;
use crate::config::ConfigError;
use crate::core::tickets;
use crate::dial::endpoint::is_origin;

impl BrokerConfig {
    /// Checks what the syntax cannot say. `path` is the file, for messages.
    ///
    /// # Errors
    /// The first key that cannot be used, why, and what to do.
    pub fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let fail = |key, problem: String, remedy| {
            Err(ConfigError::Value { path: path.into(), key, problem, remedy })
        };
        if !is_origin(&self.public_url) {
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
        self.check_workspaces(path)?;
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
        let is_scope = |scope: &String| {
            let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
            !scope.is_empty() && scope.bytes().all(plain)
        };
        if let Some(scope) = identity.scopes.iter().find(|scope| !is_scope(scope)) {
            return fail(
                "broker.identity.scopes",
                format!("{scope:?} cannot be a scope"),
                "list each scope by itself, such as [\"openid\", \"profile\"]",
            );
        }
        if !identity.scopes.is_empty() && !identity.scopes.iter().any(|scope| scope == "openid") {
            return fail(
                "broker.identity.scopes",
                "lacks openid".into(),
                "add \"openid\": without it there is no ID token",
            );
        }
        if identity.refresh_s == Some(0) {
            return fail(
                "broker.identity.refresh_s",
                "is 0".into(),
                "remove the key to get its default",
            );
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

    fn check_workspaces(&self, path: &Path) -> Result<(), ConfigError> {
        let fail = |key, problem: String, remedy| {
            Err(ConfigError::Value { path: path.into(), key, problem, remedy })
        };
        let workspaces = self.all_workspaces();
        let mut names = HashSet::new();
        for workspace in &workspaces {
            if !names.insert(&workspace.name) {
                let problem = format!("{} is declared twice", workspace.name);
                return fail("broker.workspaces", problem, "give each workspace its own name");
            }
            if [workspace.title(), &workspace.description].iter().any(|t| has_control(t)) {
                return fail(
                    "broker.workspaces.title",
                    format!("title or description of {} has a control character", workspace.name),
                    "write each on one line",
                );
            }
        }
        for resource in &self.resources {
            let workspace = self.workspace_of(resource);
            if !names.contains(workspace) {
                return fail(
                    "broker.resources.workspace",
                    format!("{} names workspace {workspace}, which is not declared", resource.id),
                    "declare it under [[broker.workspaces]] or correct its name",
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
            if let Some((key, problem, remedy)) = pool.problem() {
                return fail(key, problem, remedy);
            }
        }
        if let Some(pool) = self.pools.iter().find(|pool| pool.asks_for_strength())
            && self.identity.issuer.is_none()
        {
            return fail(
                "broker.pools.require_amr",
                format!("pool {} asks how users signed in, and there is no issuer", pool.name),
                "set identity.issuer: static tokens do not say, so nobody could get in",
            );
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
            if has_control(&resource.title) {
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
        if limits.feed_cookie_lifetime_ms > FEED_COOKIE_LIFETIME_MS_MAX {
            return fail(
                "broker.limits.feed_cookie_lifetime_ms",
                format!("{} is more than a day", limits.feed_cookie_lifetime_ms),
                "keep it short: what was signed cannot be taken back; the default is 3600000",
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
            limits.feed_cookie_lifetime_ms,
            limits.handshakes_max as u64,
            limits.handshakes_per_address_max as u64,
            limits.connections_max as u64,
            limits.channel_queue_max as u64,
            limits.command_queue_max as u64,
            limits.reservations_per_user_max as u64,
            limits.start_commands_max as u64,
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

/// A feed cookie outlives changes of a user's groups.
const FEED_COOKIE_LIFETIME_MS_MAX: u64 = 86_400_000;

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Public key signatures only: a shared secret would let every verifier sign.
const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
