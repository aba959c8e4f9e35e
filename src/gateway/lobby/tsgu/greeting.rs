//! How an RD Gateway client is greeted, decided: which packet may come next and
//! what it is answered (MS-TSGU 1.3.2.1.2). Whoever drives it has the wire and
//! the broker.
//!
//! ```text
//! handshake ─► tunnel, with a token ─► tunnel authorisation ─► channel, with a
//!              the broker judges it                            resource: placed
//! ```
//!
//! With the context of another tunnel, a tunnel authenticates that one again and
//! has no channel (MS-TSGU 2.2.10.18).

use crate::core::codes::{Code, Refusal, Retry, Side};
use crate::core::secret::Secret;
use crate::gateway::relay::framing::Agreed;
use crate::gateway::shared::Reauthentication;
use crate::wire::oidc::TOKEN_BYTES_MAX;
use crate::wire::tsgu::response::{self, Tunnel, TunnelAuth, capability, redirection};
use crate::wire::tsgu::{ChannelCreate, Handshake, Request, TunnelCreate, ext_auth, status};

/// Of the only tunnel and channel that a connection has. Windows clients want
/// both.
const TUNNEL_ID: u32 = 1;
const CHANNEL_ID: u32 = 1;

/// What we have of [`capability`], besides reauthentication for who has it too.
const CAPABILITIES: u32 = capability::IDLE_TIMEOUT | capability::SERVICE_MESSAGE;

/// More signs of life than the greeting has steps are no signs of good will.
const KEEP_ALIVES_MAX: u32 = 16;

/// What the driver does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for the next packet.
    Listen,
    /// Send this packet, then wait for the next.
    Send(Vec<u8>),
    /// Have the broker judge this token, then say [`Greeting::token_checked`].
    CheckToken(Secret),
    /// The same, and whether it is of the user whose session has this context.
    Reauthenticate { context: u64, bearer: Secret },
    /// Have a place for this resource, and its host come; then send
    /// [`channel_opened`], or [`channel_refused`] and close.
    Place { bearer: Secret, target: String },
    /// Send this packet, if it is one, and close.
    End { last: Vec<u8>, refusal: Refusal },
    /// The same where nothing is refused.
    Done { last: Vec<u8> },
}

/// How far one client has come.
#[derive(Debug)]
pub struct Greeting {
    phase: Phase,
    /// Of the HTTP request.
    bearer: Option<Secret>,
    /// What the client is told of [`idle_timeout_ms`](crate::config::gateway::GatewayLimits::idle_timeout_ms).
    idle_timeout_minutes: u32,
    /// Of the client, as it asked for its tunnel.
    capabilities: u32,
    keep_alives: u32,
}

#[derive(Debug)]
enum Phase {
    Handshake,
    TunnelCreate,
    Judging(Purpose),
    TunnelAuth(Purpose),
    ChannelCreate(Secret),
    /// Another tunnel was authenticated again: there is nothing more to say.
    Reauthenticated,
    Over,
}

/// What a tunnel is for.
#[derive(Debug)]
enum Purpose {
    /// A channel, with this token.
    Channel(Secret),
    /// Another tunnel.
    Reauthentication,
}

impl Greeting {
    /// `bearer` is the token of the HTTP request, if it had one.
    #[must_use]
    pub fn new(bearer: Option<Secret>, idle_timeout_ms: u64) -> Self {
        let minutes = u32::try_from(idle_timeout_ms.div_ceil(60_000)).unwrap_or(u32::MAX);
        Self {
            phase: Phase::Handshake,
            bearer,
            idle_timeout_minutes: minutes,
            capabilities: 0,
            keep_alives: 0,
        }
    }

    /// What both ends have, once there is a tunnel.
    #[must_use]
    pub const fn agreed(&self) -> Agreed {
        let both = self.capabilities & CAPABILITIES;
        Agreed {
            timeouts: both & capability::IDLE_TIMEOUT != 0,
            notices: both & capability::SERVICE_MESSAGE != 0,
        }
    }

    /// The same.
    #[must_use]
    pub const fn reauthentication(&self) -> Reauthentication {
        match self.capabilities & capability::REAUTH {
            0 => Reauthentication::Never,
            _ => Reauthentication::OnRequest,
        }
    }

    /// The client has got what it came for, and may leave in any way.
    #[must_use]
    pub const fn has_reauthenticated(&self) -> bool {
        matches!(self.phase, Phase::Reauthenticated)
    }

    /// The client's next packet.
    pub fn on_packet(&mut self, packet: Request) -> Step {
        match (std::mem::replace(&mut self.phase, Phase::Over), packet) {
            (phase, Request::KeepAlive) if self.keep_alives < KEEP_ALIVES_MAX => {
                // Not answered: FreeRDP answers whatever it is sent.
                self.keep_alives += 1;
                self.phase = phase;
                Step::Listen
            }
            (Phase::Handshake, Request::Handshake(handshake)) => self.on_handshake(handshake),
            (Phase::TunnelCreate, Request::TunnelCreate(tunnel)) => self.on_tunnel(tunnel),
            (Phase::TunnelAuth(purpose), Request::TunnelAuth(_)) => {
                self.phase = match purpose {
                    Purpose::Channel(bearer) => Phase::ChannelCreate(bearer),
                    Purpose::Reauthentication => Phase::Reauthenticated,
                };
                Step::Send(response::tunnel_auth(Ok(TunnelAuth {
                    redirection_flags: redirection::ENABLE_ALL,
                    idle_timeout_minutes: self.idle_timeout_minutes,
                })))
            }
            (Phase::ChannelCreate(bearer), Request::ChannelCreate(channel)) => {
                on_channel(bearer, channel)
            }
            (Phase::Reauthenticated, Request::ChannelCreate(_)) => {
                let refusal = Code::RequestMalformed.into();
                Step::End { last: channel_refused(&refusal), refusal }
            }
            (Phase::Reauthenticated, Request::CloseChannel(_)) => {
                Step::Done { last: response::close_channel_response(status::SUCCESS).to_vec() }
            }
            (_, Request::CloseChannel(_)) => {
                let last = response::close_channel_response(status::SUCCESS).to_vec();
                Step::End { last, refusal: Code::ClientDidNotArrive.into() }
            }
            (_, Request::CloseChannelResponse(_)) => {
                Step::End { last: Vec::new(), refusal: Code::ClientDidNotArrive.into() }
            }
            // Out of turn, or of no meaning before there is a channel.
            _ => {
                let last = response::close_channel(status::CLOSE_ABORTED).to_vec();
                Step::End { last, refusal: Code::RequestMalformed.into() }
            }
        }
    }

    fn on_handshake(&mut self, handshake: Handshake) -> Step {
        let Handshake { major, minor, ext_auth: offered, .. } = handshake;
        let by_request = offered == ext_auth::NONE || offered & ext_auth::BEARER != 0;
        let known = offered & (ext_auth::PAA | ext_auth::BEARER);
        if offered & ext_auth::PAA == 0 && !(by_request && self.bearer.is_some()) {
            let status = status::AUTHENTICATION_METHOD;
            let last = response::handshake(status, (major, minor), ext_auth::PAA);
            return Step::End { last, refusal: Code::TokenMissing.into() };
        }
        self.phase = Phase::TunnelCreate;
        Step::Send(response::handshake(status::SUCCESS, (major, minor), known))
    }

    fn on_tunnel(&mut self, tunnel: TunnelCreate) -> Step {
        let refused = |status, code: Code| Step::End {
            last: response::tunnel(Err(status)),
            refusal: code.into(),
        };
        let cookie = tunnel.paa_cookie.filter(|cookie| !cookie.expose().is_empty());
        let Some(bearer) = cookie.or_else(|| self.bearer.take()) else {
            return refused(status::MALFORMED_COOKIE, Code::TokenMissing);
        };
        // A cookie may have twice the length that the broker looks at.
        if bearer.expose().len() > TOKEN_BYTES_MAX {
            return refused(status::COOKIE_DENIED, Code::TokenTooLong);
        }
        self.capabilities = tunnel.capabilities;
        match tunnel.reauth_context {
            Some(context) => {
                self.phase = Phase::Judging(Purpose::Reauthentication);
                Step::Reauthenticate { context, bearer }
            }
            None => {
                self.phase = Phase::Judging(Purpose::Channel(bearer.clone()));
                Step::CheckToken(bearer)
            }
        }
    }

    /// The broker has judged the token.
    pub fn token_checked(&mut self, verdict: Result<(), Refusal>) -> Step {
        match (std::mem::replace(&mut self.phase, Phase::Over), verdict) {
            (Phase::Judging(purpose), Ok(())) => {
                self.phase = Phase::TunnelAuth(purpose);
                let capabilities = CAPABILITIES | self.capabilities & capability::REAUTH;
                Step::Send(response::tunnel(Ok(Tunnel { id: TUNNEL_ID, capabilities })))
            }
            (_, verdict) => {
                let refusal = verdict.err().unwrap_or_else(|| Code::Internal.into());
                let denied = refusal.code.facts().side == Side::Identity
                    // Which says nothing of the cookie.
                    && refusal.code != Code::IdentityUnavailable;
                let status = if denied { status::COOKIE_DENIED } else { status::INTERNAL_ERROR };
                Step::End { last: response::tunnel(Err(status)), refusal }
            }
        }
    }
}

/// The first name is the one that the user wrote; others are what the client
/// made of it.
fn on_channel(bearer: Secret, channel: ChannelCreate) -> Step {
    match channel.resources.into_iter().next() {
        Some(target) => Step::Place { bearer, target },
        None => {
            let refusal = Code::ResourceUnknown.into();
            Step::End { last: channel_refused(&refusal), refusal }
        }
    }
}

/// The host is there.
#[must_use]
pub fn channel_opened() -> Vec<u8> {
    response::channel(Ok(CHANNEL_ID))
}

/// There is no session for this client. Clients show the status by its name.
#[must_use]
pub fn channel_refused(refusal: &Refusal) -> Vec<u8> {
    let facts = refusal.code.facts();
    response::channel(Err(match (facts.side, facts.retry) {
        (Side::Client | Side::Identity, Retry::Never) => status::RESOURCE_DENIED,
        (Side::Client | Side::Gateway | Side::Host, _) => status::TARGET_CONNECT_FAILED,
        (Side::Broker | Side::Identity, _) => status::INTERNAL_ERROR,
    }))
}

#[cfg(test)]
#[path = "greeting_tests.rs"]
mod tests;
