//! A logon by token inside RDP (RDSAAD), as an RDP server speaks it. Between
//! TLS and MCS there are three JSON texts, each ended by a NUL (MS-RDPBCGR
//! 5.4.5.4 and 2.2.18; `FreeRDP`'s `aad.c`):
//!
//! 1. server: `{"ts_nonce": …}`
//! 2. client: `{"rdp_assertion": …}`, a JWS (RFC 7515) by a key that the client
//!    made for this connection. In it is an access token that the identity
//!    provider bound to that key.
//! 3. server: `{"authentication_result": …}`, and RDP goes on, or ends.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::core::codes::Code;
use crate::core::secret::Secret;

/// A client's text is no longer, its NUL included: an access token of 16 KiB in
/// base64, a key, two nonces.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;
/// What the first label of a host's name is appended to.
const DEVICE_PREFIX: &str = "ms-device-service://termsrv.wvd.microsoft.com/name/";
/// What a client asks the identity provider to be allowed there.
const SCOPE_SUFFIX: &str = "/user_impersonation";
/// `aud` of the nonces of an identity provider that signs them.
pub const NONCE_AUDIENCE: &str = "srv_challenge";
/// The only algorithm of assertions.
const ALGORITHM: &str = "RS256";

/// How clients call a session host when they ask for a token for it.
#[must_use]
pub fn device_uri(host_name: &str) -> String {
    let label = host_name.split('.').next().unwrap_or_default();
    format!("{DEVICE_PREFIX}{label}")
}

/// The host that a token of this scope is for.
#[must_use]
pub fn device_of(scope: &str) -> Option<&str> {
    scope.strip_suffix(SCOPE_SUFFIX).filter(|device| device.starts_with(DEVICE_PREFIX))
}

/// The thumbprint of the key that a token is to be bound to, by the `req_cnf` of
/// the request for it: base64url of `{"kid": …}`.
#[must_use]
pub fn key_to_bind(req_cnf: &str) -> Option<String> {
    let key: KeyName = decoded(req_cnf)?;
    Some(key.kid)
}

#[derive(Deserialize)]
struct KeyName {
    kid: String,
}

/// The server's first word.
#[must_use]
pub fn nonce_text(nonce: &str) -> Vec<u8> {
    ended(&json!({ "ts_nonce": nonce }))
}

/// The server's last word.
#[must_use]
pub fn result_text(result: LogonResult) -> Vec<u8> {
    ended(&json!({ "authentication_result": result.0 }))
}

fn ended(json: &Value) -> Vec<u8> {
    let mut text = json.to_string().into_bytes();
    text.push(0);
    text
}

/// An NTSTATUS or HRESULT; these are the ones that clients have a name for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogonResult(pub u32);

impl LogonResult {
    pub const OK: Self = Self(0);
    pub const INVALID_TOKEN: Self = Self(0x8009_0308);
    pub const ACCESS_DENIED: Self = Self(0x8007_0005);
    pub const LOGON_FAILURE: Self = Self(0xc000_006d);
    pub const NO_LOGON_SERVERS: Self = Self(0xc000_005e);
    pub const INVALID_WORKSTATION: Self = Self(0xc000_0070);

    /// What a client is told that is refused with this code.
    #[must_use]
    pub const fn of(refusal: Code) -> Self {
        match refusal {
            Code::IdentityUnavailable => Self::NO_LOGON_SERVERS,
            Code::LogonWrongHost => Self::INVALID_WORKSTATION,
            Code::LogonNotAllowed => Self::LOGON_FAILURE,
            Code::TokenExpired | Code::TokenNotYetValid | Code::LogonStale => Self::ACCESS_DENIED,
            _ => Self::INVALID_TOKEN,
        }
    }
}

impl fmt::Debug for LogonResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// The client sends no such text, whatever comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no assertion of an RDSAAD client")]
pub struct NotAnAssertion;

/// What a client asserts. Nothing of it is believed yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Assertion {
    jws: Secret,
    /// Unix time, by the client's clock.
    pub at_s: u64,
    pub access_token: Secret,
    /// The host that it wants to log on to, see [`device_uri`].
    pub device: String,
    /// The server's.
    pub nonce: String,
    /// The identity provider's.
    pub provider_nonce: String,
    pub key: PublicKey,
}

/// An RSA key (RFC 7518 6.3.1): base64url.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PublicKey {
    kty: String,
    pub e: String,
    pub n: String,
}

#[derive(Deserialize)]
struct Message {
    rdp_assertion: Secret,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Extensions that the reader must understand (RFC 7515 4.1.11): none.
    #[serde(default)]
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Claims {
    ts: String,
    at: Secret,
    u: String,
    nonce: String,
    cnf: Confirmation,
    /// JSON in a text.
    client_claims: String,
}

#[derive(Deserialize)]
struct Confirmation {
    jwk: PublicKey,
}

#[derive(Deserialize)]
struct ClientClaims {
    aad_nonce: String,
}

impl Assertion {
    /// The assertion at the front of `bytes`. `None`: more bytes are needed.
    ///
    /// # Errors
    /// When it is something else, too long, or followed by more: a client waits
    /// for its answer.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, NotAnAssertion> {
        let window = bytes.get(..TEXT_BYTES_MAX).unwrap_or(bytes);
        match window.iter().position(|byte| *byte == 0) {
            None if window.len() == TEXT_BYTES_MAX => Err(NotAnAssertion),
            // So that who speaks something else is not waited for.
            None if window.first().is_some_and(|first| *first != b'{') => Err(NotAnAssertion),
            None => Ok(None),
            Some(end) if end + 1 < bytes.len() => Err(NotAnAssertion),
            Some(end) => {
                Self::read(window.get(..end).unwrap_or_default()).ok_or(NotAnAssertion).map(Some)
            }
        }
    }

    fn read(text: &[u8]) -> Option<Self> {
        let jws = serde_json::from_slice::<Message>(text).ok()?.rdp_assertion;
        let (signed, _signature) = jws.expose().rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = decoded(header)?;
        let claims: Claims = decoded(claims)?;
        let other: ClientClaims = serde_json::from_str(&claims.client_claims).ok()?;
        let fits = header.alg == ALGORITHM && header.crit.is_none() && claims.cnf.jwk.is_rsa();
        let at_s = claims.ts.parse().ok()?;
        fits.then_some(Self {
            at_s,
            access_token: claims.at,
            device: claims.u,
            nonce: claims.nonce,
            provider_nonce: other.aad_nonce,
            key: claims.cnf.jwk,
            jws,
        })
    }

    /// What was signed, and the signature in base64url.
    #[must_use]
    pub fn signed(&self) -> (&str, &str) {
        self.jws.expose().rsplit_once('.').unwrap_or_default()
    }
}

fn decoded<T: DeserializeOwned>(part: &str) -> Option<T> {
    let json = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.decode(part).ok()?);
    serde_json::from_slice(&json).ok()
}

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assertion")
            .field("at_s", &self.at_s)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl PublicKey {
    /// Whether it can stand in JSON as it is.
    fn is_rsa(&self) -> bool {
        let is_base64url = |text: &str| URL_SAFE_NO_PAD.decode(text).is_ok();
        self.kty == "RSA" && is_base64url(&self.e) && is_base64url(&self.n)
    }

    /// Its name in tokens that are bound to it (RFC 7638 3).
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let canonical = format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, self.e, self.n);
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `FreeRDP` makes it, with these claims and this header.
    fn text(header: &Value, claims: &Value) -> Vec<u8> {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let jws = format!("{}.{}.c2ln", part(header), part(claims));
        ended(&json!({ "rdp_assertion": jws }))
    }

    fn header() -> Value {
        json!({ "alg": "RS256", "kid": "a2lk" })
    }

    fn claims() -> Value {
        json!({
            "ts": "1800000000", "at": "access token", "nonce": "n-1",
            "u": "ms-device-service://termsrv.wvd.microsoft.com/name/desk-7",
            "cnf": { "jwk": { "kty": "RSA", "e": "AQAB", "n": "bW9kdWx1cw" } },
            "client_claims": "{\"aad_nonce\":\"n-2\"}",
        })
    }

    #[test]
    fn an_assertion_is_read_wherever_it_was_cut() {
        let text = text(&header(), &claims());
        for cut in 0..text.len() {
            assert_eq!(Assertion::parse(&text[..cut]), Ok(None), "cut at {cut}");
        }
        let read = Assertion::parse(&text).unwrap().unwrap();
        assert_eq!((read.at_s, read.nonce.as_str()), (1_800_000_000, "n-1"));
        assert_eq!(read.access_token.expose(), "access token");
        assert_eq!(read.device, device_uri("desk-7.corp.example"));
        assert_eq!(read.provider_nonce, "n-2");
        assert_eq!(read.signed().1, "c2ln");
        assert!(!format!("{read:?}").contains("token"), "{read:?}");
    }

    #[test]
    fn what_is_no_assertion_is_known_as_early_as_it_can_be() {
        let refused = |bytes: &[u8]| assert_eq!(Assertion::parse(bytes), Err(NotAnAssertion));
        refused(b"\x03\0\0\x13");
        refused(b"{}\0");
        refused(&vec![b'{'; TEXT_BYTES_MAX]);
        refused(&[text(&header(), &claims()), b"more".to_vec()].concat());
        for (alg, crit) in [("none", None), ("HS256", None), ("RS256", Some(["b64"]))] {
            let mut header = header();
            header["alg"] = json!(alg);
            if let Some(crit) = crit {
                header["crit"] = json!(crit);
            }
            refused(&text(&header, &claims()));
        }
        for (claim, value) in [
            ("ts", json!("soon")),
            ("at", json!(null)),
            ("client_claims", json!({ "aad_nonce": "n-2" })),
            ("cnf", json!({ "jwk": { "kty": "oct", "e": "AQAB", "n": "bW9k" } })),
            ("cnf", json!({ "jwk": { "kty": "RSA", "e": "AQAB", "n": "\",\"" } })),
        ] {
            let mut claims = claims();
            claims[claim] = value;
            refused(&text(&header(), &claims));
        }
    }

    #[test]
    fn an_identity_provider_is_asked_for_a_host_and_a_key() {
        let device = device_uri("desk-7");
        assert_eq!(device_of(&format!("{device}/user_impersonation")), Some(device.as_str()));
        assert_eq!(device_of(&device), None);
        assert_eq!(device_of("openid/user_impersonation"), None);
        let name = |json: Value| key_to_bind(&URL_SAFE_NO_PAD.encode(json.to_string()));
        assert_eq!(name(json!({ "kid": "k" })).as_deref(), Some("k"));
        assert_eq!(name(json!({})), None);
        assert_eq!(key_to_bind("k"), None);
    }

    #[test]
    fn the_servers_words_are_what_freerdp_reads() {
        assert_eq!(nonce_text("n-1"), b"{\"ts_nonce\":\"n-1\"}\0");
        assert_eq!(result_text(LogonResult::OK), b"{\"authentication_result\":0}\0");
        let denied = result_text(LogonResult::of(Code::LogonNotAllowed));
        assert_eq!(denied, b"{\"authentication_result\":3221225581}\0");
    }

    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        // RFC 7638 3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6\
                 tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v\
                 -65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08q\
                 NLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8aw\
                 apJzKnqDKgw";
        let key = PublicKey { kty: "RSA".into(), e: "AQAB".into(), n: n.into() };
        assert_eq!(key.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }
}
