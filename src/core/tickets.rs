//! Tickets: what lets a leg into a gateway, checked there without asking
//! anyone (steps 8 and 10).
//!
//! Shape: `rw1.<key id>.<base64url of the claims as JSON>.<base64url of the
//! Ed25519 signature over everything before it>`. A ticket names one session,
//! one gateway, one host and one role, lives at most [`LIFETIME_MS_MAX`], and
//! works once.

use std::collections::{HashMap, VecDeque};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::clock::UnixMillis;
use super::codes::Code;
use super::ids::{GatewayId, HostId, SessionId};

/// No ticket lives longer, whatever its claims say.
pub const LIFETIME_MS_MAX: u64 = 60_000;
/// How far the broker's clock may be ahead of a gateway's.
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;
/// A longer text is not looked at.
pub const TEXT_LENGTH_MAX: usize = 1_024;

const PREFIX: &str = "rw1";

/// Which end of a session a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Client,
    Host,
}

impl Role {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Host => "host",
        }
    }

    /// The end that gets what this one sends.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Host,
            Self::Host => Self::Client,
        }
    }
}

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// 128 random bits: what "once" is counted by.
    pub id: SessionId,
    pub session: SessionId,
    pub gateway: GatewayId,
    pub host: HostId,
    pub role: Role,
    pub issued_at: UnixMillis,
    pub expires_at: UnixMillis,
}

/// The broker's half of the key.
#[derive(Debug)]
pub struct TicketSigner {
    key_id: String,
    key: Ed25519KeyPair,
}

/// A public key as the broker publishes it to gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedKey {
    pub key_id: String,
    /// 32 bytes, base64url without padding.
    pub ed25519: String,
}

impl TicketSigner {
    /// A signer from a PKCS#8 document, as `Ed25519KeyPair::generate_pkcs8`
    /// makes it. The key id is the first 8 bytes of the public key in hex.
    ///
    /// # Errors
    /// When the document is not an Ed25519 key.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, aws_lc_rs::error::KeyRejected> {
        let key = Ed25519KeyPair::from_pkcs8(document)?;
        let key_id = key.public_key().as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect();
        Ok(Self { key_id, key })
    }

    #[must_use]
    pub fn published(&self) -> PublishedKey {
        PublishedKey {
            key_id: self.key_id.clone(),
            ed25519: URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref()),
        }
    }

    #[must_use]
    pub fn sign(&self, claims: &Claims) -> String {
        // The claims are names, numbers and enums: serialising cannot fail.
        let json = serde_json::to_vec(claims).unwrap_or_default();
        let mut text = format!("{PREFIX}.{}.{}", self.key_id, URL_SAFE_NO_PAD.encode(json));
        let signature = self.key.sign(text.as_bytes());
        text.push('.');
        text.push_str(&URL_SAFE_NO_PAD.encode(signature.as_ref()));
        text
    }
}

/// A gateway's half: the published keys (two while one is being replaced).
#[derive(Clone, Debug, Default)]
pub struct TicketVerifier {
    keys: HashMap<String, Vec<u8>>,
}

impl TicketVerifier {
    /// Keys that are not 32 bytes of base64url are left out.
    #[must_use]
    pub fn new(published: &[PublishedKey]) -> Self {
        let keys = published
            .iter()
            .filter_map(|p| {
                let bytes = URL_SAFE_NO_PAD.decode(&p.ed25519).ok()?;
                (bytes.len() == 32).then(|| (p.key_id.clone(), bytes))
            })
            .collect();
        Self { keys }
    }

    /// Checks everything but "once": signature first, then time, gateway and
    /// role. What is returned is authentic.
    ///
    /// # Errors
    /// The code that the bearer is told.
    pub fn verify(
        &self,
        text: &str,
        gateway: &GatewayId,
        role: Role,
        now: UnixMillis,
    ) -> Result<Claims, Code> {
        if text.is_empty() {
            return Err(Code::TicketMissing);
        }
        if text.len() > TEXT_LENGTH_MAX {
            return Err(Code::TicketMalformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Code::TicketMalformed)?;
        let mut parts = signed.split('.');
        let (Some(PREFIX), Some(key_id), Some(body), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Code::TicketMalformed);
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Code::TicketMalformed)?;
        let key = self.keys.get(key_id).ok_or(Code::TicketUnknownKey)?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Code::TicketBadSignature)?;

        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| Code::TicketMalformed)?;
        let claims: Claims = serde_json::from_slice(&json).map_err(|_| Code::TicketMalformed)?;
        if claims.issued_at.since_ms(now) > CLOCK_SKEW_MS_MAX {
            return Err(Code::TicketNotYetValid);
        }
        let lifetime_ends = claims.issued_at.plus_ms(LIFETIME_MS_MAX).min(claims.expires_at);
        if now >= lifetime_ends {
            return Err(Code::TicketExpired);
        }
        if claims.gateway != *gateway {
            return Err(Code::TicketWrongGateway);
        }
        if claims.role != role {
            return Err(Code::TicketWrongRole);
        }
        Ok(claims)
    }
}

/// Tickets that were used and have not expired yet, since a gateway's start.
///
/// What was used before is forgotten, so a ticket that was issued before counts
/// as used. A broker whose clock is behind the gateway's makes a gateway that
/// has just started refuse its tickets for as long as it is behind; allowing
/// for that instead would allow a replay for as long.
#[derive(Debug)]
pub struct UsedTickets {
    since: UnixMillis,
    expiry_by_id: HashMap<SessionId, UnixMillis>,
    in_order_of_use: VecDeque<SessionId>,
    capacity: usize,
}

impl UsedTickets {
    /// `capacity` bounds the memory; when it is reached, uses are refused
    /// rather than forgotten, because forgetting would allow a replay.
    #[must_use]
    pub fn new(capacity: usize, since: UnixMillis) -> Self {
        Self { since, expiry_by_id: HashMap::new(), in_order_of_use: VecDeque::new(), capacity }
    }

    /// Marks a verified ticket as used.
    ///
    /// # Errors
    /// [`Code::TicketUsed`] the second time, [`Code::TicketExpired`] for one that
    /// may have been used before this table began, [`Code::TooManyWaiting`] when the
    /// table is full of tickets that could still be replayed.
    pub fn consume(&mut self, claims: &Claims, now: UnixMillis) -> Result<(), Code> {
        if claims.issued_at < self.since {
            return Err(Code::TicketExpired);
        }
        while let Some(oldest) = self.in_order_of_use.front() {
            match self.expiry_by_id.get(oldest) {
                Some(expiry) if *expiry > now => break,
                _ => {
                    self.expiry_by_id.remove(oldest);
                    self.in_order_of_use.pop_front();
                }
            }
        }
        if self.expiry_by_id.contains_key(&claims.id) {
            return Err(Code::TicketUsed);
        }
        if self.expiry_by_id.len() >= self.capacity {
            return Err(Code::TooManyWaiting);
        }
        // One skew more than verify() allows, so that no clock step reopens it.
        let keep_until = claims
            .expires_at
            .min(claims.issued_at.plus_ms(LIFETIME_MS_MAX))
            .plus_ms(CLOCK_SKEW_MS_MAX);
        self.expiry_by_id.insert(claims.id, keep_until);
        self.in_order_of_use.push_back(claims.id);
        Ok(())
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.expiry_by_id.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expiry_by_id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn signer(seed: u8) -> TicketSigner {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        TicketSigner::from_pkcs8(key.to_pkcs8v1().unwrap().as_ref()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            id: SessionId([1; 16]),
            session: SessionId([2; 16]),
            gateway: "gw-1".parse().unwrap(),
            host: "host-1".parse().unwrap(),
            role: Role::Client,
            issued_at: NOW,
            expires_at: NOW.plus_ms(30_000),
        }
    }

    fn verify_at(text: &str, gateway: &str, role: Role, now: UnixMillis) -> Result<Claims, Code> {
        TicketVerifier::new(&[signer(1).published()]).verify(
            text,
            &gateway.parse().unwrap(),
            role,
            now,
        )
    }

    #[test]
    fn a_ticket_works_for_its_gateway_role_and_time() {
        let text = signer(1).sign(&claims());
        assert_eq!(verify_at(&text, "gw-1", Role::Client, NOW), Ok(claims()));
        assert_eq!(verify_at(&text, "gw-2", Role::Client, NOW), Err(Code::TicketWrongGateway));
        assert_eq!(verify_at(&text, "gw-1", Role::Host, NOW), Err(Code::TicketWrongRole));
        let late = NOW.plus_ms(30_000);
        assert_eq!(verify_at(&text, "gw-1", Role::Client, late), Err(Code::TicketExpired));
        let early = UnixMillis(NOW.0 - CLOCK_SKEW_MS_MAX - 1);
        assert_eq!(verify_at(&text, "gw-1", Role::Client, early), Err(Code::TicketNotYetValid));
        assert_eq!(verify_at("", "gw-1", Role::Client, NOW), Err(Code::TicketMissing));
    }

    #[test]
    fn another_signer_is_unknown_and_a_borrowed_key_id_does_not_help() {
        let foreign = signer(2).sign(&claims());
        assert_eq!(verify_at(&foreign, "gw-1", Role::Client, NOW), Err(Code::TicketUnknownKey));
        let forged = foreign.replace(&signer(2).published().key_id, &signer(1).published().key_id);
        assert_eq!(verify_at(&forged, "gw-1", Role::Client, NOW), Err(Code::TicketBadSignature));
    }

    #[test]
    fn an_overlong_life_is_cut() {
        let mut long = claims();
        long.expires_at = NOW.plus_ms(3_600_000);
        let text = signer(1).sign(&long);
        let after = NOW.plus_ms(LIFETIME_MS_MAX);
        assert_eq!(verify_at(&text, "gw-1", Role::Client, after), Err(Code::TicketExpired));
    }

    #[test]
    fn used_once_and_forgotten_only_after_expiry() {
        let mut used = UsedTickets::new(2, NOW);
        assert_eq!(used.consume(&claims(), NOW), Ok(()));
        assert_eq!(used.consume(&claims(), NOW.plus_ms(29_999)), Err(Code::TicketUsed));
        let other = |n| Claims { id: SessionId([n; 16]), ..claims() };
        assert_eq!(used.consume(&other(8), NOW), Ok(()));
        assert_eq!(used.consume(&other(9), NOW), Err(Code::TooManyWaiting));
        assert_eq!(used.consume(&other(9), NOW.plus_ms(40_000)), Ok(()));
        assert_eq!(used.len(), 1);
    }

    #[test]
    fn a_ticket_from_before_the_start_counts_as_used() {
        let mut used = UsedTickets::new(2, NOW.plus_ms(1));
        assert_eq!(used.consume(&claims(), NOW.plus_ms(2)), Err(Code::TicketExpired));
        let later = Claims { issued_at: NOW.plus_ms(1), ..claims() };
        assert_eq!(used.consume(&later, NOW.plus_ms(2)), Ok(()));
    }

    proptest! {
        /// Any changed character is refused, whatever it is and wherever.
        #[test]
        fn no_changed_ticket_is_accepted(position in 0_usize..400, replacement in "[A-Za-z0-9._-]") {
            let text = signer(1).sign(&claims());
            let position = position % text.len();
            let mut changed = text.clone();
            changed.replace_range(position..=position, &replacement);
            prop_assume!(changed != text);
            let verdict = verify_at(&changed, "gw-1", Role::Client, NOW);
            // The last character of unpadded base64 has unused bits that the
            // decoder insists on being zero, so even that is caught.
            prop_assert!(verdict.is_err());
        }

        #[test]
        fn garbage_never_panics(text in ".{0,300}") {
            prop_assert!(verify_at(&text, "gw-1", Role::Client, NOW).is_err());
        }
    }
}
