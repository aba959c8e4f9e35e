//! Enrolment tokens: `rwe_<32 hexadecimal digits>_<fingerprint of the CA>`.

use std::str::FromStr;

use crate::core::secret::Secret;
use crate::tls::pinned_ca::CaPin;

const PREFIX: &str = "rwe_";
const SECRET_DIGITS: usize = 32;

/// A token as the operator was given it.
#[derive(Clone, Debug)]
pub struct EnrolToken {
    text: Secret,
    /// The CA of the broker that made it.
    pub ca_pin: CaPin,
}

impl EnrolToken {
    /// A token of a broker with that CA.
    #[must_use]
    pub fn new(secret: [u8; SECRET_DIGITS / 2], ca_pin: CaPin) -> Self {
        let secret = zeroize::Zeroizing::new(hex::encode(secret));
        Self { text: Secret::new(format!("{PREFIX}{}_{ca_pin}", secret.as_str())), ca_pin }
    }

    /// The secret part, under whose hash the broker finds the token.
    #[must_use]
    pub fn secret(&self) -> &str {
        let rest = self.text.expose().strip_prefix(PREFIX);
        rest.and_then(|rest| rest.split_once('_')).map_or("", |(secret, _)| secret)
    }

    /// All of it: what the broker is sent.
    #[must_use]
    pub const fn text(&self) -> &Secret {
        &self.text
    }
}

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not an enrolment token; copy all of what `ringway token create` printed (rwe_…_…)"
)]
pub struct EnrolTokenError;

impl FromStr for EnrolToken {
    type Err = EnrolTokenError;
    fn from_str(text: &str) -> Result<Self, EnrolTokenError> {
        let text = text.trim();
        let (secret, pin) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .ok_or(EnrolTokenError)?;
        if secret.len() != SECRET_DIGITS || !secret.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(EnrolTokenError);
        }
        let ca_pin = pin.parse().map_err(|_| EnrolTokenError)?;
        Ok(Self { text: Secret::new(text.to_owned()), ca_pin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tokens_are_read() {
        let text = format!("rwe_{}_{}", "a1".repeat(16), "0f".repeat(16));
        let token: EnrolToken = format!(" {text}\n").parse().unwrap();
        assert_eq!(token.text().expose(), text);
        assert_eq!(token.secret(), "a1".repeat(16));
        assert_eq!(EnrolToken::new([0xa1; 16], token.ca_pin).text(), token.text());
        assert_eq!(token.ca_pin.to_string(), "0f".repeat(16));
        for cut in 0..text.len() {
            assert!(text[..cut].parse::<EnrolToken>().is_err(), "{cut}");
        }
        assert!(text.replace("a1a1", "zzzz").parse::<EnrolToken>().is_err());
        assert!(!format!("{token:?}").contains("a1a1"));
    }
}
