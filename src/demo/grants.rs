//! Authorization codes of the demo's issuer: handed out once, redeemed once,
//! within a minute, by whoever knows the verifier behind the challenge
//! (RFC 6749 4.1, RFC 7636).

use std::collections::HashMap;

use crate::core::clock::UnixMillis;
use crate::wire::oidc::challenge_of;

/// RFC 6749 4.1.2 allows ten minutes; our client is back at once.
pub const CODE_LIFETIME_MS: u64 = 60_000;
/// Codes handed out and not yet redeemed.
pub const CODES_MAX: usize = 1_024;

/// What the authorization request fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub client_id: String,
    pub redirect_uri: String,
    /// `S256` challenge.
    pub challenge: String,
    pub nonce: Option<String>,
    pub expires_at: UnixMillis,
}

/// What the token request brings.
#[derive(Clone, Copy)]
pub struct Redemption<'a> {
    pub code: &'a str,
    pub client_id: &'a str,
    pub redirect_uri: &'a str,
    pub verifier: &'a str,
}

impl std::fmt::Debug for Redemption<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redemption").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// Why a code gives no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error("the code is not known, or was used before")]
    Unknown,
    #[error("the code is older than a minute")]
    Expired,
    #[error("the code was given to another client or for another redirect address")]
    OtherRequest,
    #[error("the code verifier does not fit the challenge")]
    WrongVerifier,
}

/// The table is full of codes that nobody redeemed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many sign-ins are under way, try again in a minute")]
pub struct TooManyCodes;

/// All codes that can still be redeemed.
#[derive(Default)]
pub struct Grants {
    codes: HashMap<String, Grant>,
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grants").field("codes", &self.codes.len()).finish()
    }
}

impl Grants {
    /// Remembers `code`, which the caller drew at random.
    ///
    /// # Errors
    /// When there are too many that neither expired nor were redeemed.
    pub fn add(&mut self, code: String, grant: Grant, now: UnixMillis) -> Result<(), TooManyCodes> {
        if self.codes.len() >= CODES_MAX {
            self.codes.retain(|_, grant| now < grant.expires_at);
        }
        if self.codes.len() >= CODES_MAX {
            return Err(TooManyCodes);
        }
        self.codes.insert(code, grant);
        Ok(())
    }

    /// Takes a code for good: one wrong attempt uses it up as well, so that
    /// nobody can try verifiers.
    ///
    /// # Errors
    /// When the code is unknown or the request is not the one it was given to.
    pub fn redeem(
        &mut self,
        redemption: Redemption<'_>,
        now: UnixMillis,
    ) -> Result<Grant, GrantError> {
        let grant = self.codes.remove(redemption.code).ok_or(GrantError::Unknown)?;
        if now >= grant.expires_at {
            return Err(GrantError::Expired);
        }
        if grant.client_id != redemption.client_id || grant.redirect_uri != redemption.redirect_uri
        {
            return Err(GrantError::OtherRequest);
        }
        if challenge_of(redemption.verifier).as_deref() != Some(&grant.challenge) {
            return Err(GrantError::WrongVerifier);
        }
        Ok(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7636 appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn grant() -> Grant {
        Grant {
            client_id: "client".into(),
            redirect_uri: "http://127.0.0.1/callback".into(),
            challenge: CHALLENGE.into(),
            nonce: None,
            expires_at: NOW.plus_ms(CODE_LIFETIME_MS),
        }
    }

    const REDEMPTION: Redemption<'_> = Redemption {
        code: "code",
        client_id: "client",
        redirect_uri: "http://127.0.0.1/callback",
        verifier: VERIFIER,
    };

    fn with_code() -> Grants {
        let mut grants = Grants::default();
        grants.add("code".into(), grant(), NOW).unwrap();
        grants
    }

    #[test]
    fn a_code_works_once() {
        let mut grants = with_code();
        assert_eq!(grants.redeem(REDEMPTION, NOW), Ok(grant()));
        assert_eq!(grants.redeem(REDEMPTION, NOW), Err(GrantError::Unknown));
    }

    #[test]
    fn a_wrong_attempt_uses_the_code_up() {
        let other = VERIFIER.replace('d', "e");
        let wrong = [
            (Redemption { verifier: &other, ..REDEMPTION }, GrantError::WrongVerifier),
            (Redemption { verifier: CHALLENGE, ..REDEMPTION }, GrantError::WrongVerifier),
            (Redemption { client_id: "other", ..REDEMPTION }, GrantError::OtherRequest),
            (Redemption { redirect_uri: "http://[::1]/", ..REDEMPTION }, GrantError::OtherRequest),
        ];
        for (redemption, error) in wrong {
            let mut grants = with_code();
            assert_eq!(grants.redeem(redemption, NOW), Err(error));
            assert_eq!(grants.redeem(REDEMPTION, NOW), Err(GrantError::Unknown));
        }
    }

    #[test]
    fn a_code_expires() {
        let last = NOW.plus_ms(CODE_LIFETIME_MS - 1);
        assert!(with_code().redeem(REDEMPTION, last).is_ok());
        let late = NOW.plus_ms(CODE_LIFETIME_MS);
        assert_eq!(with_code().redeem(REDEMPTION, late), Err(GrantError::Expired));
    }

    #[test]
    fn the_table_is_bounded_and_expired_codes_make_room() {
        let mut grants = Grants::default();
        for n in 0..CODES_MAX {
            grants.add(n.to_string(), grant(), NOW).unwrap();
        }
        assert_eq!(grants.add("more".into(), grant(), NOW), Err(TooManyCodes));
        let later = NOW.plus_ms(CODE_LIFETIME_MS);
        assert_eq!(grants.add("more".into(), grant(), later), Ok(()));
        assert_eq!(grants.codes.len(), 1);
    }
}
