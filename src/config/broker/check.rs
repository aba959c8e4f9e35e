//! What the syntax cannot say: keys that need, contradict or name each other.

use std::collections::HashMap;

use rustls::pki_types::ServerName;

use super::BrokerConfig;
use crate::config::Findings;
use crate::config::admin::{check_peers, check_socket};
use crate::config::certificates::check_pair;
use crate::core::tickets;
use crate::dial::Endpoint;
use crate::dial::endpoint::is_origin;

impl BrokerConfig {
    /// Finds every key that cannot be used, says why and what to do.
    pub fn check(&self, found: &mut Findings) {
        if !is_origin(&self.public_url) {
            found.add(
                "broker.public_url",
                format!("{:?} is not https://host:port", self.public_url),
                "write the address that clients and machines use, without a path",
            );
        }
        check_socket(found, "broker", &self.admin_socket());
        check_peers(found, "broker", self.admin_socket.as_deref(), &self.admin_peers());
        self.check_certificates(found);
        self.check_entry_gateway(found);
        self.check_admin_tokens(found);
        self.check_identity(found);
        self.check_pools(found);
        self.check_workspaces(found);
        self.check_resources(found);
        self.check_limits(found);
    }

    fn check_certificates(&self, found: &mut Findings) {
        let (certificate, key) = (self.tls_certificate.as_ref(), self.tls_key.as_ref());
        check_pair(found, "broker", certificate, key);
        let is_ours = certificate.is_none() && key.is_none();
        let keys = ["broker.tls_certificate", "broker.tls_key", "broker.server_names"];
        if !is_ours || !keys.iter().all(|key| found.is_sound(key)) {
            return;
        }
        if self.server_names.is_empty() {
            found.add(
                "broker.server_names",
                "is empty, and there is no certificate of your own",
                "list the host names in public_url, or set tls_certificate and tls_key",
            );
        }
        for (i, name) in self.server_names.iter().enumerate() {
            if ServerName::try_from(name.as_str()).is_err() {
                found.add(
                    format!("broker.server_names[{i}]"),
                    format!("{name:?} is no DNS name or address"),
                    "write a host name, such as broker.example.com",
                );
            }
        }
        if let Ok(public) = self.public_url.parse::<Endpoint>()
            && found.is_sound("broker.server_names")
            && !self.server_names.iter().any(|name| name.eq_ignore_ascii_case(public.host()))
        {
            found.add(
                "broker.server_names",
                format!("lacks {}, the host in public_url", public.host()),
                "add it: nobody would accept the certificate",
            );
        }
    }

    fn check_entry_gateway(&self, found: &mut Findings) {
        let usable = |gateway: &String| is_origin(&format!("https://{gateway}"));
        if let Some(gateway) = self.entry_gateway.as_ref().filter(|gateway| !usable(gateway)) {
            found.add(
                "broker.entry_gateway",
                format!("{gateway:?} is not host:port"),
                "write a gateway's name and port, such as gw.example.com:443",
            );
        }
    }

    fn check_admin_tokens(&self, found: &mut Findings) {
        let mut names = Unique::new("broker.admin_tokens", "name");
        let mut hashes = Unique::new("broker.admin_tokens", "token_sha256");
        for (i, token) in self.admin_tokens.iter().enumerate() {
            names.check(found, i, &token.name);
            check_hash(
                found,
                format!("broker.admin_tokens[{i}].token_sha256"),
                &token.token_sha256,
            );
            hashes.check(found, i, &token.token_sha256.to_ascii_lowercase());
        }
    }

    fn check_identity(&self, found: &mut Findings) {
        let identity = &self.identity;
        if let Some(issuer) = &identity.issuer {
            if !issuer.starts_with("https://") {
                found.add(
                    "broker.identity.issuer",
                    format!("{issuer:?} is not an https URL"),
                    "use the issuer's https URL, exactly as its tokens name it in iss",
                );
            }
            if identity.audience.is_none() {
                found.add(
                    "broker.identity.audience",
                    "is missing",
                    "set what the tokens for this broker carry in aud",
                );
            }
        }
        let is_scope = |scope: &str| {
            let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
            !scope.is_empty() && scope.bytes().all(plain)
        };
        for (i, scope) in identity.scopes.iter().enumerate().filter(|(_, scope)| !is_scope(scope)) {
            found.add(
                format!("broker.identity.scopes[{i}]"),
                format!("{scope:?} cannot be a scope"),
                "list each scope by itself, such as [\"openid\", \"profile\"]",
            );
        }
        if !identity.scopes.is_empty()
            && found.is_sound("broker.identity.scopes")
            && !identity.scopes.iter().any(|scope| scope == "openid")
        {
            found.add(
                "broker.identity.scopes",
                "lacks openid",
                "add \"openid\": without it there is no ID token",
            );
        }
        if let Some(refresh_s) = identity.refresh_s {
            found.add_zeros("broker.identity", [("refresh_s", refresh_s)]);
        }
        for (i, algorithm) in identity.algorithms.iter().enumerate() {
            if !ALGORITHMS.contains(&algorithm.as_str()) {
                found.add(
                    format!("broker.identity.algorithms[{i}]"),
                    format!("{algorithm:?} is not a public key algorithm that is supported"),
                    format!("use {}", ALGORITHMS.join(", ")),
                );
            }
        }
        let mut hashes = Unique::new("broker.identity.static_tokens", "token_sha256");
        for (i, token) in identity.static_tokens.iter().enumerate() {
            check_hash(
                found,
                format!("broker.identity.static_tokens[{i}].token_sha256"),
                &token.token_sha256,
            );
            hashes.check(found, i, &token.token_sha256.to_ascii_lowercase());
        }
    }

    fn check_pools(&self, found: &mut Findings) {
        let mut names = Unique::new("broker.pools", "name");
        for (i, pool) in self.pools.iter().enumerate() {
            let table = format!("broker.pools[{i}]");
            names.check(found, i, pool.name.as_str());
            pool.check(&table, found);
            if self.identity.issuer.is_none() && found.is_sound("broker.identity.issuer") {
                for (key, wanted) in
                    [("require_amr", &pool.require_amr), ("require_acr", &pool.require_acr)]
                {
                    if !wanted.is_empty() {
                        found.add(
                            format!("{table}.{key}"),
                            "asks how users signed in, and there is no issuer",
                            "set identity.issuer: static tokens do not say, so nobody could get in",
                        );
                    }
                }
            }
        }
    }

    fn check_workspaces(&self, found: &mut Findings) {
        let mut names = Unique::new("broker.workspaces", "name");
        for (i, workspace) in self.workspaces.iter().enumerate() {
            names.check(found, i, workspace.name.as_str());
            for (key, text) in
                [("title", workspace.title()), ("description", &workspace.description)]
            {
                if has_control(text) {
                    found.add(
                        format!("broker.workspaces[{i}].{key}"),
                        "has a control character",
                        "write it on one line",
                    );
                }
            }
        }
    }

    fn check_resources(&self, found: &mut Findings) {
        let pools_are_known = found.is_sound("broker.pools");
        let workspaces_are_known =
            found.is_sound("broker.workspaces") && found.is_sound("broker.workspace");
        let workspaces = self.all_workspaces();
        let mut ids = Unique::new("broker.resources", "id");
        for (i, resource) in self.resources.iter().enumerate() {
            ids.check(found, i, resource.id.as_str());
            if pools_are_known && !self.pools.iter().any(|pool| pool.name == resource.pool) {
                found.add(
                    format!("broker.resources[{i}].pool"),
                    format!("{} is not declared", resource.pool),
                    "declare the pool under [[broker.pools]] or correct its name",
                );
            }
            let workspace = self.workspace_of(resource);
            if workspaces_are_known && !workspaces.iter().any(|known| known.name == *workspace) {
                found.add(
                    format!("broker.resources[{i}].workspace"),
                    format!("{workspace} is not declared"),
                    "declare it under [[broker.workspaces]] or correct its name",
                );
            }
            if has_control(&resource.title) {
                found.add(
                    format!("broker.resources[{i}].title"),
                    "has a control character",
                    "write the title on one line",
                );
            }
        }
    }

    fn check_limits(&self, found: &mut Findings) {
        let limits = &self.limits;
        let reservation = limits.reservation_ms;
        if reservation == 0 || reservation > tickets::LIFETIME_MS_MAX {
            found.add(
                "broker.limits.reservation_ms",
                format!("{reservation} is not between 1 and {}", tickets::LIFETIME_MS_MAX),
                "no ticket lives longer than a minute; keep the default of 30000",
            );
        }
        if limits.feed_cookie_lifetime_ms > FEED_COOKIE_LIFETIME_MS_MAX {
            found.add(
                "broker.limits.feed_cookie_lifetime_ms",
                format!("{} is more than a day", limits.feed_cookie_lifetime_ms),
                "keep it short: what was signed cannot be taken back; the default is 3600000",
            );
        }
        found.add_zeros(
            "broker.limits",
            [
                ("handshake_timeout_ms", limits.handshake_timeout_ms),
                ("request_timeout_ms", limits.request_timeout_ms),
                ("heartbeat_interval_ms", limits.heartbeat_interval_ms),
                ("heartbeat_timeout_ms", limits.heartbeat_timeout_ms),
                ("order_answer_timeout_ms", limits.order_answer_timeout_ms),
                ("start_timeout_ms", limits.start_timeout_ms),
                ("gateway_table_interval_ms", limits.gateway_table_interval_ms),
                ("identity_timeout_ms", limits.identity_timeout_ms),
                ("feed_cookie_lifetime_ms", limits.feed_cookie_lifetime_ms),
                ("handshakes_max", limits.handshakes_max as u64),
                ("handshakes_per_address_max", limits.handshakes_per_address_max as u64),
                ("connections_max", limits.connections_max as u64),
                ("channel_queue_max", limits.channel_queue_max as u64),
                ("command_queue_max", limits.command_queue_max as u64),
                ("reservations_per_user_max", limits.reservations_per_user_max as u64),
                ("start_commands_max", limits.start_commands_max as u64),
                ("request_body_bytes_max", limits.request_body_bytes_max as u64),
            ],
        );
        if limits.handshakes_max > limits.connections_max {
            found.add(
                "broker.limits.handshakes_max",
                format!("is more than connections_max ({})", limits.connections_max),
                "make it the smaller of the two",
            );
        }
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

/// Values of which each may stand once in a list of tables.
struct Unique {
    table: &'static str,
    key: &'static str,
    first: HashMap<String, usize>,
}

impl Unique {
    fn new(table: &'static str, key: &'static str) -> Self {
        Self { table, key, first: HashMap::new() }
    }

    fn check(&mut self, found: &mut Findings, i: usize, value: &str) {
        let (table, key) = (self.table, self.key);
        let first = *self.first.entry(value.to_owned()).or_insert(i);
        let either_was_mistaken =
            [first, i].iter().any(|i| !found.is_sound(&format!("{table}[{i}].{key}")));
        if first != i && !either_was_mistaken {
            found.add(
                format!("{table}[{i}].{key}"),
                format!("is the same as in {table}[{first}]"),
                "give each its own",
            );
        }
    }
}

fn check_hash(found: &mut Findings, key: String, hash: &str) {
    if hash.len() != 64 || hex::decode(hash).is_err() {
        found.add(
            key,
            "is not 64 hexadecimal digits",
            "take the output of: printf %s TOKEN | sha256sum",
        );
    }
}
