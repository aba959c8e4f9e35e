//! Cookies that only this broker can have made: signed, short-lived, each kind
//! good for one thing only.
//!
//! `PREFIX.BODY.MAC`: base64url of JSON, and an HMAC-SHA256 over all that comes
//! before it. What is inside can be read by whoever holds the cookie, so no
//! secret goes in. No bearer token looks like this, and none is accepted here.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::clock::UnixMillis;
use crate::core::codes::Code;
use crate::core::secret::Secret;

/// Browsers drop a cookie that is longer than 4096 bytes with its name and
/// attributes.
pub const COOKIE_BYTES_MAX: usize = 3_800;

/// What a cookie is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The feed, its icons and `.rdp` files.
    Feed,
    /// Coming back from the identity provider.
    SignIn,
}

impl Purpose {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Feed => "rwf1",
            Self::SignIn => "rws1",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<T> {
    expires_at: UnixMillis,
    content: T,
}

/// The broker's key.
pub struct CookieKey(hmac::Key);

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

impl CookieKey {
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// # Errors
    /// [`Code::RequestTooLarge`] when browsers would not keep the cookie.
    pub fn seal(
        &self,
        purpose: Purpose,
        content: &impl Serialize,
        expires_at: UnixMillis,
    ) -> Result<Secret, Code> {
        let body =
            serde_json::to_vec(&Sealed { expires_at, content }).map_err(|_| Code::Internal)?;
        let signed = format!("{}.{}", purpose.prefix(), URL_SAFE_NO_PAD.encode(body));
        let mac = hmac::sign(&self.0, signed.as_bytes());
        let text = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac));
        if text.len() > COOKIE_BYTES_MAX {
            return Err(Code::RequestTooLarge);
        }
        Ok(Secret::new(text))
    }

    /// What was sealed. Nothing of it is looked at before the signature is.
    ///
    /// # Errors
    /// [`Code::TokenMalformed`], [`Code::TokenBadSignature`] or
    /// [`Code::TokenExpired`].
    pub fn open<T: DeserializeOwned>(
        &self,
        purpose: Purpose,
        text: &str,
        now: UnixMillis,
    ) -> Result<T, Code> {
        if text.len() > COOKIE_BYTES_MAX {
            return Err(Code::TokenMalformed);
        }
        let (signed, mac) = text.rsplit_once('.').ok_or(Code::TokenMalformed)?;
        let body = signed
            .strip_prefix(purpose.prefix())
            .and_then(|rest| rest.strip_prefix('.'))
            .ok_or(Code::TokenMalformed)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| Code::TokenMalformed)?;
        hmac::verify(&self.0, signed.as_bytes(), &mac).map_err(|_| Code::TokenBadSignature)?;
        let body = URL_SAFE_NO_PAD.decode(body).map_err(|_| Code::TokenMalformed)?;
        let sealed: Sealed<T> = serde_json::from_slice(&body).map_err(|_| Code::TokenMalformed)?;
        if now >= sealed.expires_at {
            return Err(Code::TokenExpired);
        }
        Ok(sealed.content)
    }
}

/// The value of a cookie in a `Cookie` header (RFC 6265 4.2).
#[must_use]
pub fn cookie_in<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.split(';').find_map(|pair| {
        let (found, value) = pair.trim().split_once('=')?;
        (found == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const LATER: UnixMillis = NOW.plus_ms(1);

    fn key() -> CookieKey {
        CookieKey::new(&[7; 32])
    }

    fn open(text: &str) -> Result<String, Code> {
        key().open(Purpose::Feed, text, NOW)
    }

    #[test]
    fn a_cookie_is_opened_by_its_key_for_its_purpose_in_its_time() {
        let sealed = key().seal(Purpose::Feed, &"ann", LATER).unwrap();
        assert_eq!(open(sealed.expose()), Ok("ann".into()));
        let other = CookieKey::new(&[8; 32]);
        let opened = other.open::<String>(Purpose::Feed, sealed.expose(), NOW);
        assert_eq!(opened, Err(Code::TokenBadSignature));
        let opened = key().open::<String>(Purpose::SignIn, sealed.expose(), NOW);
        assert_eq!(opened, Err(Code::TokenMalformed));
        let relabelled = sealed.expose().replacen("rwf1", "rws1", 1);
        let opened = key().open::<String>(Purpose::SignIn, &relabelled, NOW);
        assert_eq!(opened, Err(Code::TokenBadSignature));
        let opened = key().open::<String>(Purpose::Feed, sealed.expose(), LATER);
        assert_eq!(opened, Err(Code::TokenExpired));
        assert_eq!(format!("{sealed:?} {:?}", key()), "Secret(..) CookieKey(..)");
    }

    #[test]
    fn what_no_browser_keeps_is_not_made() {
        let sealed = key().seal(Purpose::Feed, &"x".repeat(COOKIE_BYTES_MAX), LATER);
        assert_eq!(sealed, Err(Code::RequestTooLarge));
        for bad in ["", ".", "rwf1", "rwf1.", "rwf2..", "rwf1.e30.%%%", &"x".repeat(5_000)] {
            assert_eq!(open(bad), Err(Code::TokenMalformed), "{bad:.20}");
        }
        assert_eq!(open("rwf1.."), Err(Code::TokenBadSignature));
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let header = "a=1; x.ASPXAUTH=no; .ASPXAUTH=yes=; .ASPXAUTH=second";
        assert_eq!(cookie_in(header, ".ASPXAUTH"), Some("yes="));
        assert_eq!(cookie_in(header, "ASPXAUTH"), None);
        assert_eq!(cookie_in("", ".ASPXAUTH"), None);
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_refused(position in 0_usize..200, flip in 1_u8..=255) {
            let sealed = key().seal(Purpose::Feed, &"ann", LATER).unwrap();
            let mut bytes = sealed.expose().as_bytes().to_vec();
            let position = position % bytes.len();
            bytes[position] ^= flip;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert!(open(&text).is_err());
            }
        }
    }
}
