//! Logon by token, without a password (RDSAAD), for an RDP server inside an
//! agent's process: negotiation, TLS, and the exchange of `wire::rdsaad`.
//! What follows is RDP as after any other negotiation.

pub mod judge;
mod negotiated;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::io;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use self::judge::{LogonRules, judge};
pub use self::negotiated::Negotiated;
use crate::broker::identity::{IdentityError, Judge, User};
use crate::config::broker::Identity;
use crate::core::codes::{Code, Refusal};
use crate::tls::settings::TlsSettings;
use crate::wire::rdsaad::{Assertion, LogonResult, TEXT_BYTES_MAX, nonce_text, result_text};
use crate::wire::x224::{ConnectionConfirm, ConnectionRequest, Protocols, REQUEST_BYTES_MAX};

/// How long one client is waited for.
const PATIENCE: Patience =
    Patience { greeting: Duration::from_secs(15), sign_in: Duration::from_secs(180) };
/// One question to the identity provider.
const PROVIDER_TIMEOUT_MS: u64 = 5_000;
/// `EXTENDED_CLIENT_DATA_SUPPORTED` (MS-RDPBCGR 2.2.1.2.1).
const CONFIRM_FLAGS: u8 = 1;

/// Why a client did not get in.
#[derive(Debug, thiserror::Error)]
pub enum NoEntry {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the client took too long over {0}")]
    TooSlow(&'static str),
    /// It was told so.
    #[error("{0}")]
    Refused(Refusal),
}

/// Judges logons by token. Cheap to share.
#[derive(Debug)]
pub struct TokenLogon {
    judge: Judge,
    rules: LogonRules,
    patience: Patience,
}

#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For its first PDU, again for TLS, and to take its answer.
    greeting: Duration,
    /// For its assertion: meanwhile somebody signs in, by hand perhaps.
    sign_in: Duration,
}

/// What one client must answer, and can answer once.
struct Nonce(String);

/// How a client wants in.
pub enum Entrance<S> {
    /// It proved who it is; TLS is up, and its RDP follows.
    Token { user: User, stream: Box<Negotiated<TlsStream<S>>> },
    /// In another way, which it has yet to go.
    Other(Negotiated<S>),
}

impl<S> fmt::Debug for Entrance<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token { .. } => "Token",
            Self::Other(_) => "Other",
        })
    }
}

impl TokenLogon {
    /// By the provider in `identity`. Without an `audience` there, an access
    /// token must be for this host.
    ///
    /// # Errors
    /// When `ca_file` or the TLS settings cannot be used.
    pub fn new(
        identity: &Identity,
        tls: TlsSettings,
        rules: LogonRules,
    ) -> Result<Self, IdentityError> {
        let judge = Judge::new(identity, tls, Duration::from_millis(PROVIDER_TIMEOUT_MS))?;
        Ok(Self { judge, rules, patience: PATIENCE })
    }

    async fn judge(&self, assertion: &Assertion, nonce: Nonce) -> Result<User, Refusal> {
        let Self { judge: provider, rules, .. } = self;
        provider
            .with_keys(|access, keys, now_s| judge(assertion, &nonce.0, rules, access, keys, now_s))
            .await
    }

    /// Hears how a client wants in. One that offers RDSAAD is asked for its
    /// token; `may_enter` says whether the user has an account here.
    ///
    /// # Errors
    /// When it does not get in.
    pub async fn greet<S>(
        &self,
        mut stream: S,
        tls: &TlsAcceptor,
        may_enter: impl Fn(&User) -> bool,
    ) -> Result<Entrance<S>, NoEntry>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Patience { greeting, .. } = self.patience;
        let first = timeout(greeting, first_request(&mut stream)).await;
        let received = first.map_err(|_| NoEntry::TooSlow("its first PDU"))??;
        let Some(request) = asks_for_rdsaad(&received) else {
            return Ok(Entrance::Other(Negotiated::replaying(stream, received)));
        };
        let flags = CONFIRM_FLAGS;
        let confirm = ConnectionConfirm::Selected { flags, protocol: Protocols::RDSAAD };
        let accepting = async {
            stream.write_all(&confirm.to_bytes()).await?;
            stream.flush().await?;
            tls.accept(stream).await
        };
        let accepted = timeout(greeting, accepting).await;
        let mut stream = accepted.map_err(|_| NoEntry::TooSlow("TLS"))??;

        let judged = self.exchange(&mut stream).await?.and_then(|user| {
            if may_enter(&user) { Ok(user) } else { Err(Code::LogonNotAllowed.into()) }
        });
        let refusal = judged.as_ref().err().map(|refusal| refusal.code);
        let result = refusal.map_or(LogonResult::OK, LogonResult::of);
        let telling = async {
            stream.write_all(&result_text(result)).await?;
            stream.flush().await?;
            if judged.is_err() { stream.shutdown().await } else { Ok(()) }
        };
        let told = timeout(greeting, telling).await;
        told.map_err(|_| NoEntry::TooSlow("its answer"))??;
        let user = judged.map_err(NoEntry::Refused)?;
        let stream = Box::new(Negotiated::negotiating(stream, request));
        Ok(Entrance::Token { user, stream })
    }

    async fn exchange<S>(&self, stream: &mut S) -> Result<Result<User, Refusal>, NoEntry>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let nonce = Nonce::draw().map_err(NoEntry::Refused)?;
        let asking = async {
            stream.write_all(&nonce_text(&nonce.0)).await?;
            stream.flush().await?;
            assertion(stream).await
        };
        let heard = timeout(self.patience.sign_in, asking).await;
        Ok(match heard.map_err(|_| NoEntry::TooSlow("its sign-in"))?? {
            Some(assertion) => self.judge(&assertion, nonce).await,
            None => Err(Code::LogonMalformed.into()),
        })
    }
}

impl Nonce {
    /// 256 random bits.
    fn draw() -> Result<Self, Refusal> {
        let mut random = [0; 32];
        rand::fill(&mut random).map_err(|_| Refusal::new(Code::Internal))?;
        Ok(Self(URL_SAFE_NO_PAD.encode(random)))
    }
}

/// What a client sent until its first PDU was whole, or was none.
async fn first_request<S>(stream: &mut S) -> io::Result<Vec<u8>>
where
    S: AsyncRead + Unpin,
{
    let mut received = Vec::with_capacity(REQUEST_BYTES_MAX);
    while let Ok(None) = ConnectionRequest::parse(&received) {
        if stream.read_buf(&mut received).await? == 0 {
            break;
        }
    }
    Ok(received)
}

/// The request for the RDP server, if that is what it is. RDSAAD begins with
/// the client's silence: nothing may follow the request.
fn asks_for_rdsaad(received: &[u8]) -> Option<Vec<u8>> {
    let (request, len) = ConnectionRequest::parse(received).ok()??;
    let offered = request.negotiation?.protocols;
    (offered.contain(Protocols::RDSAAD) && len == received.len()).then(|| request.for_server())
}

/// `None`: it is something else.
async fn assertion<S>(stream: &mut S) -> io::Result<Option<Assertion>>
where
    S: AsyncRead + Unpin,
{
    // Of full size at once: what is moved leaves a copy of the token behind.
    let mut received = Zeroizing::new(vec![0; TEXT_BYTES_MAX]);
    let mut filled = 0;
    loop {
        let len = match received.get_mut(filled..) {
            Some(room) if !room.is_empty() => stream.read(room).await?,
            _ => return Ok(None),
        };
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += len;
        match Assertion::parse(received.get(..filled).unwrap_or_default()) {
            Ok(None) => {}
            Ok(Some(assertion)) => return Ok(Some(assertion)),
            Err(_not_one) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
