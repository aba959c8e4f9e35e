//! Sign-in on another device (RFC 8628): the user enters a short code there
//! while this terminal asks, at the pace that the provider sets, whether that
//! is done.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::LoginError;
use super::provider::{Provider, Tokens};
use crate::wire::oidc::DeviceAuthorization;

/// RFC 8628 3.2: when the provider does not say.
const INTERVAL_S: u64 = 5;
/// RFC 8628 3.5.
const SLOW_DOWN_S: u64 = 5;
const INTERVAL_S_MAX: u64 = 60;
/// However long a provider wants to wait.
const LIFETIME_S_MAX: u64 = 1_800;

/// How often to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    interval_s: u64,
}

impl Pace {
    fn new(interval_s: Option<u64>) -> Self {
        Self { interval_s: interval_s.unwrap_or(INTERVAL_S).clamp(1, INTERVAL_S_MAX) }
    }

    /// Takes in why there are no tokens yet, and whether to ask again.
    fn goes_on(&mut self, problem: &LoginError) -> bool {
        let interval_s = match problem {
            LoginError::Refused { error, .. } => match error.as_str() {
                "authorization_pending" => self.interval_s,
                "slow_down" => self.interval_s.saturating_add(SLOW_DOWN_S),
                _ => return false,
            },
            // No answer: RFC 8628 3.5 wants exponential patience.
            LoginError::Dial(_) => self.interval_s.saturating_mul(2),
            _ => return false,
        };
        self.interval_s = interval_s.min(INTERVAL_S_MAX);
        true
    }
}

/// Waits until the user has entered the code.
///
/// # Errors
/// The provider's refusal, or that the code is over.
pub async fn wait(
    provider: &Provider,
    authorization: &DeviceAuthorization,
) -> Result<Tokens, LoginError> {
    let lifetime_s = authorization.expires_in.min(LIFETIME_S_MAX);
    let deadline = Instant::now() + Duration::from_secs(lifetime_s);
    let mut pace = Pace::new(authorization.interval);
    loop {
        sleep(Duration::from_secs(pace.interval_s)).await;
        if Instant::now() >= deadline {
            return Err(LoginError::NobodyCame { after_s: lifetime_s });
        }
        match provider.redeem_device(&authorization.device_code).await {
            Err(problem) if pace.goes_on(&problem) => {
                tracing::debug!(%problem, interval_s = pace.interval_s, "Not signed in yet");
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::{DialError, DialErrorKind, Phase, Purpose};

    fn refused(error: &str) -> LoginError {
        LoginError::Refused { error: error.into(), description: String::new() }
    }

    #[test]
    fn the_provider_sets_the_pace() {
        let mut pace = Pace::new(None);
        assert_eq!(pace.interval_s, 5);
        assert!(pace.goes_on(&refused("authorization_pending")));
        assert_eq!(pace.interval_s, 5);
        assert!(pace.goes_on(&refused("slow_down")));
        assert!(pace.goes_on(&refused("slow_down")));
        assert_eq!(pace.interval_s, 15);
        for end in ["expired_token", "access_denied", "invalid_grant", ""] {
            assert!(!pace.goes_on(&refused(end)), "{end}");
        }
    }

    #[test]
    fn a_provider_that_does_not_answer_is_asked_less_often() {
        let late = || {
            let kind = DialErrorKind::Deadline { phase: Phase::Answer, after_ms: 1 };
            LoginError::Dial(DialError::new(Purpose::SIGN_IN, "https://i", kind))
        };
        let mut pace = Pace::new(Some(2));
        assert!(pace.goes_on(&late()) && pace.goes_on(&late()));
        assert_eq!(pace.interval_s, 8);
        for _ in 0..100 {
            assert!(pace.goes_on(&late()));
        }
        assert_eq!(pace.interval_s, INTERVAL_S_MAX);
    }

    #[test]
    fn a_pace_has_limits() {
        assert_eq!(Pace::new(Some(0)).interval_s, 1);
        assert_eq!(Pace::new(Some(u64::MAX)).interval_s, INTERVAL_S_MAX);
    }
}
