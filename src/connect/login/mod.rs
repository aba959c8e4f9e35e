//! Step 2 from the user's side: `ringway login` signs in at the broker's
//! identity provider and stores the tokens for `subscribe` and `connect`,
//! which [renew](session) them.
//!
//! In a browser on this machine ([`code`], [`callback`]), or on another device
//! ([`device`]).

pub mod callback;
pub mod code;
mod command;
pub mod device;
pub mod provider;
pub mod session;
pub mod store;

use std::path::PathBuf;

pub use command::{Args, LogoutArgs, logout, run};

use crate::config::state_dir::StateError;
use crate::dial::endpoint::EndpointError;
use crate::dial::{DialError, DialErrorKind};
use crate::tls::identity::PemError;

/// Why somebody is not signed in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error(
        "this broker has no identity provider; its operator hands out tokens: \
         use --token-file or RINGWAY_TOKEN"
    )]
    NoIssuer,
    #[error("this broker names no client to sign in as; its operator must set identity.client_id")]
    NoClient,
    #[error("the system gives no random numbers")]
    NoRandomness,
    #[error("trust roots: {0}")]
    Roots(#[from] PemError),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up HTTPS: {0}")]
    Https(#[from] reqwest::Error),
    #[error("{0}{hint}", hint = hint(.0))]
    Dial(#[from] DialError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("the identity provider's answer to the {what} request is not as it must be: {why}")]
    Answer { what: &'static str, why: String },
    #[error(
        "the identity provider refused: {error} ({description}); try again, or ask the operator"
    )]
    Refused { error: String, description: String },
    #[error("the identity provider has no sign-in on another device; leave --device out")]
    NoDeviceSignIn,
    #[error("cannot listen on this machine's own address: {0}")]
    Listen(std::io::Error),
    #[error("nobody signed in within {after_s} seconds; run it again")]
    NobodyCame { after_s: u64 },
    #[error("the identity provider gave no refresh token")]
    NoRefreshToken,
    #[error("you are not signed in at {broker}; run: ringway login {broker}")]
    NotSignedIn { broker: String },
    #[error("your sign-in at {broker} is over ({why}); run: ringway login {broker}")]
    Over { broker: String, why: String },
    #[error(
        "none of your sign-ins is for {gateway}, which the .rdp file names; run ringway login and \
         ringway subscribe with your broker's URL, or give a token with --token-file"
    )]
    NoSignInFor { gateway: String },
    #[error("several of your sign-ins are for {gateway}; choose with --broker URL")]
    SeveralFor { gateway: String },
    #[error("there is no home directory for sign-ins; name a directory with --state-dir")]
    NoHome,
    #[error(transparent)]
    Store(#[from] StateError),
    #[error("the stored sign-in {path} is damaged ({error}); sign in again with ringway login")]
    Stored { path: PathBuf, error: serde_json::Error },
    #[error("cannot list the stored sign-ins: {0}")]
    List(std::io::Error),
    #[error("cannot remove the stored sign-in: {0}")]
    Remove(std::io::Error),
    #[error("cannot lock the stored sign-in, which another command uses: {0}")]
    Lock(std::io::Error),
}

/// What to try when a certificate is not trusted.
fn hint(error: &DialError) -> &'static str {
    match error.kind {
        DialErrorKind::Tls { .. } => {
            "; if its certificate is of a private CA, name that with --ca (broker) or --issuer-ca"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests;
