//! RD Gateway clients (MS-TSGU over HTTP): a greeting of packets, and then a
//! session's bytes in packets (steps 7 to 11). They come over one WebSocket, or
//! with two requests whose bodies never end.
//!
//! Here the gateway is what `.rdp` files name, so it asks for a place at itself.

mod channels;
mod greeting;
mod out_channel;
mod packets;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

pub use self::channels::{answer_first, attach_in, hold_out};
pub use self::out_channel::OutChannels;
pub use self::websocket::over_websocket;

use self::greeting::{Greeting, Step, channel_opened, channel_refused};
use self::out_channel::OutChannel;
use self::packets::{Carrier, Gathered, Packets};
use super::connection::{Connection, ConnectionError};
use super::placing::{admit_here, check_token, reauthenticate};
use super::waiting::{Arrived, Due, NoHost, wait_for_host};
use crate::core::codes::{Code, Refusal};
use crate::core::secret::Secret;
use crate::core::tickets::Claims;
use crate::gateway::relay::framing::Agreed;
use crate::wire::framing_error::FramingError;
use crate::wire::http_head::RequestHead;
use crate::wire::resource_name::ResourceName;
use crate::wire::tsgu::{Request, response, status};
use crate::wire::websocket::{CLOSE_NORMAL, Opcode, close_frame, control_frame};

/// Clients put a slash behind it.
pub const PATH: &str = "/remoteDesktopGateway";

/// The request whose answer carries packets (MS-TSGU 3.3.5.1).
pub const OUT_METHOD: &str = "RDG_OUT_DATA";

/// Whether the request says how its client is going to show who its user is: by
/// a token in the request, or by one in a packet. A 401 else; there is no other
/// way to sign in.
///
/// # Errors
/// [`Code::TokenMissing`].
pub fn require_a_way_to_sign_in(head: &RequestHead) -> Result<(), Code> {
    let scheme = header_or_parameter(head, "rdg-auth-scheme", "AuthS");
    let by_cookie = scheme.is_some_and(|scheme| scheme.expose().eq_ignore_ascii_case("PAA"));
    if by_cookie || head.bearer_anywhere().is_some() { Ok(()) } else { Err(Code::TokenMissing) }
}

/// On an upgrade to WebSocket a query parameter may stand for each header
/// (MS-TSGU 2.2.3.3).
fn header_or_parameter(head: &RequestHead, header: &str, parameter: &str) -> Option<Secret> {
    head.header(header).map(Secret::from).or_else(|| head.query_parameter(parameter))
}

/// A client that is being greeted.
struct Client<C> {
    /// What it sends on.
    connection: Connection,
    packets: Packets<C>,
    out: Out,
}

/// One that may be told that its channel is open.
struct Greeted {
    claims: Claims,
    arrived: Arrived,
    /// It has a status for a session that took too long.
    agreed: Agreed,
}

/// What it hears on.
enum Out {
    /// The same, in frames.
    WebSocket,
    Channel(OutChannel),
}

impl Out {
    /// Resolves when the client has left on a connection of its own for this.
    async fn left(&self) {
        match self {
            Self::WebSocket => std::future::pending().await,
            Self::Channel(out) => out.left().await,
        }
    }
}

/// Why there will be no session.
enum Farewell {
    /// Nobody is left to be told.
    Left,
    Told(LastWords),
    /// There was to be none; with a last packet, if it is one.
    Done(Vec<u8>),
}

struct LastWords {
    /// Empty for none.
    packet: Vec<u8>,
    /// What it comes from.
    refusal: Refusal,
    /// For a WebSocket.
    close_code: u16,
}

impl Farewell {
    fn told(packet: Vec<u8>, refusal: Refusal) -> Self {
        Self::Told(LastWords { packet, refusal, close_code: CLOSE_NORMAL })
    }

    /// Its channel, which it does not have yet, is closed (MS-TSGU 2.2.10.3).
    fn aborted(refusal: Refusal) -> Self {
        Self::told(response::close_channel(status::CLOSE_ABORTED).to_vec(), refusal)
    }

    fn channel_refused(refusal: Refusal) -> Self {
        Self::told(channel_refused(&refusal), refusal)
    }
}

impl From<ConnectionError> for Farewell {
    fn from(_: ConnectionError) -> Self {
        Self::Left
    }
}

impl From<FramingError> for Farewell {
    fn from(error: FramingError) -> Self {
        let packet = response::close_channel(status::CLOSE_ABORTED).to_vec();
        let refusal = Refusal::with_detail(Code::RequestMalformed, error);
        Self::Told(LastWords { packet, refusal, close_code: error.websocket_close_code() })
    }
}

impl<C: Carrier> Client<C> {
    /// From the handshake to the host's arrival. What is left is to tell the
    /// client that its channel is open.
    async fn greet(&mut self, bearer: Option<Secret>) -> Result<Greeted, Farewell> {
        let shared = Arc::clone(&self.connection.shared);
        let limits = shared.config().limits;
        let mut greeting = Greeting::new(bearer, limits.idle_timeout_ms);
        let patience = Duration::from_millis(limits.request_timeout_ms);
        let mut deadline = Instant::now() + patience;
        loop {
            let packet = match self.next_packet(deadline).await {
                Err(_) if greeting.has_reauthenticated() => return Err(Farewell::Done(Vec::new())),
                packet => packet?,
            };
            let step = match greeting.on_packet(packet) {
                Step::CheckToken(bearer) => {
                    greeting.token_checked(check_token(&shared, bearer).await)
                }
                Step::Reauthenticate { context, bearer } => {
                    greeting.token_checked(reauthenticate(&shared, context, bearer).await)
                }
                step => step,
            };
            match step {
                Step::Listen | Step::CheckToken(_) | Step::Reauthenticate { .. } => {}
                Step::Send(packet) => {
                    self.send(packet).await?;
                    // From an answer to the next request: signs of life do not
                    // make it longer.
                    deadline = Instant::now() + patience;
                }
                Step::Place { bearer, target } => {
                    let (claims, mut arrived) = self.place(bearer, target).await?;
                    arrived.reauthentication = greeting.reauthentication();
                    let agreed = greeting.agreed();
                    return Ok(Greeted { claims, arrived, agreed });
                }
                Step::End { last, refusal } => return Err(Farewell::told(last, refusal)),
                Step::Done { last } => return Err(Farewell::Done(last)),
            }
        }
    }

    async fn next_packet(&mut self, deadline: Instant) -> Result<Request, Farewell> {
        let too_late = || Farewell::aborted(Code::RequestTimeout.into());
        loop {
            let (used, gathered) = self.packets.gather(self.connection.received())?;
            self.connection.consume(used);
            match gathered {
                Some(Gathered::Packet(packet)) => return Ok(Request::parse(&packet)?),
                // A whole buffer of them may be here.
                Some(Gathered::Ping(_)) if Instant::now() >= deadline => return Err(too_late()),
                Some(Gathered::Ping(payload)) => {
                    let pong = control_frame(Opcode::Pong, payload.as_slice());
                    self.connection.write(pong.as_slice()).await?;
                }
                Some(Gathered::End) => {
                    return Err(Farewell::told(Vec::new(), Code::ClientDidNotArrive.into()));
                }
                None => {
                    let more = timeout_at(deadline, self.connection.fill());
                    tokio::select! {
                        filled = more => filled.map_err(|_| too_late())??,
                        () = self.out.left() => return Err(Farewell::Left),
                    }
                }
            }
        }
    }

    async fn place(
        &mut self,
        bearer: Secret,
        target: String,
    ) -> Result<(Claims, Arrived), Farewell> {
        let begun = Instant::now();
        if ResourceName::of_target(&target).next().is_none() {
            return Err(Farewell::channel_refused(Code::ResourceUnknown.into()));
        }
        let claims = admit_here(&self.connection, bearer, target, String::new()).await;
        let claims = claims.map_err(Farewell::channel_refused)?;
        let limit = self.connection.shared.config().limits.pair_timeout_ms;
        let due = Due { begun, deadline: Instant::now() + Duration::from_millis(limit) };
        match wait_for_host(&mut self.connection, &claims, due, self.out.left()).await {
            Ok(arrived) => Ok((claims, arrived)),
            Err(NoHost::ClientLeft) => Err(Farewell::Left),
            Err(NoHost::Refused(refusal)) => Err(Farewell::channel_refused(refusal)),
        }
    }

    async fn send(&mut self, packet: Vec<u8>) -> Result<(), Farewell> {
        match &self.out {
            Out::WebSocket => Ok(self.connection.write(&websocket::framed(&packet)).await?),
            Out::Channel(out) => out.send(packet).await.map_err(|_| Farewell::Left),
        }
    }

    /// The end of a client that got no session.
    async fn bid(self, farewell: Farewell) {
        let LastWords { packet, refusal, close_code } = match farewell {
            Farewell::Left => return,
            Farewell::Done(packet) => return self.part(packet).await,
            Farewell::Told(words) => words,
        };
        match self.out {
            Out::WebSocket => {
                let mut words = websocket::framed(&packet);
                words.extend(close_frame(close_code).as_slice());
                self.connection.refuse_in(&words, &refusal).await;
            }
            Out::Channel(out) => {
                out.refuse(packet, refusal).await;
                self.connection.close().await;
            }
        }
    }

    /// The end of a client that came for none.
    async fn part(mut self, packet: Vec<u8>) {
        // Who has left already is not told.
        match self.out {
            Out::WebSocket => {
                let mut words = websocket::framed(&packet);
                words.extend(close_frame(CLOSE_NORMAL).as_slice());
                let _ = self.connection.write(&words).await;
            }
            Out::Channel(out) => {
                if !packet.is_empty() {
                    let _ = out.send(packet).await;
                }
            }
        }
        self.connection.close().await;
    }
}
