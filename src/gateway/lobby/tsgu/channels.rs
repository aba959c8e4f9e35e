//! Two requests whose bodies never end: `RDG_OUT_DATA`, whose answer carries our
//! packets, and `RDG_IN_DATA`, whose chunks carry the client's (MS-TSGU 3.3.5.1).
//!
//! ```text
//! OUT ─► 200, seed ─► waits for its IN ─► says what it is told ─► leg
//! IN  ─► 200, and once more, in chunks ─► takes its OUT, is greeted ─► leg
//! ```

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::out_channel::{ChannelKey, OutChannel, Saying, Wait};
use super::{Client, Farewell, Greeted, Out, Packets, channel_opened, require_a_way_to_sign_in};
use crate::core::codes::{Code, Refusal};
use crate::core::pairing::NoWait;
use crate::gateway::lobby::connection::Connection;
use crate::gateway::lobby::exchange::{Next, answer};
use crate::gateway::lobby::waiting::{begin, client_left, give_up};
use crate::gateway::relay::Leg;
use crate::gateway::relay::framing::{Deframer, Framer};
use crate::gateway::shared::{Shared, lock};
use crate::wire::http_head::{self, RequestHead};
use crate::wire::{chunked, tsgu};

/// Neither a length nor chunks: FreeRDP 3 would wait for the end. The ten bytes
/// are as many as Windows Server 2019 sends, and as FreeRDP skips; the
/// specification's hundred break it.
const OUT_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\n\r\n\
    \xab\xcd\xab\xcd\xab\xcd\xab\xcd\xab\xcd";

/// The request that our packets answer.
pub async fn hold_out(connection: Connection, head: &RequestHead) {
    let shared = Arc::clone(&connection.shared);
    let (out, said) = OutChannel::new();
    match register(&shared, &connection, head, out) {
        Ok(wait) => speak(connection, said, wait).await,
        Err(refusal) => connection.refuse(&refusal).await,
    }
}

fn register<'a>(
    shared: &'a Shared,
    connection: &Connection,
    head: &RequestHead,
    out: OutChannel,
) -> Result<Wait<'a>, Refusal> {
    require_a_way_to_sign_in(head)?;
    if shared.is_draining() {
        return Err(Code::GatewayDraining.into());
    }
    if head.content_length > 0 || !connection.received().is_empty() {
        return Err(Code::RequestMalformed.into());
    }
    let address = connection.peer.ip();
    let key = ChannelKey::of(address, head)?;
    let wait = Wait::begin(&shared.out_channels, key, address, out);
    Ok(wait.map_err(|no| match no {
        NoWait::Taken => Code::ChannelUnpaired,
        NoWait::TooMany => Code::TooManyWaiting,
    })?)
}

/// Says what it is told, until the relay has it or it is over.
async fn speak(mut connection: Connection, mut said: mpsc::Receiver<Saying>, wait: Wait<'_>) {
    if connection.write(OUT_ANSWER).await.is_err() {
        return;
    }
    let limit = Duration::from_millis(connection.shared.config().limits.pair_timeout_ms);
    let time_is_up = sleep_until(Instant::now() + limit);
    tokio::pin!(time_is_up);
    let mut is_attached = false;
    loop {
        tokio::select! {
            saying = said.recv() => match saying {
                Some(Saying::Attached) => is_attached = true,
                Some(Saying::Packet(packet)) => {
                    if connection.write(&packet).await.is_err() {
                        return;
                    }
                }
                Some(Saying::Last { packet, refusal }) => {
                    return connection.refuse_in(&packet, &refusal).await;
                }
                Some(Saying::Open { packet, answer }) => {
                    let socket = match connection.reserve_socket() {
                        Ok(socket) => socket,
                        Err(refusal) => {
                            // It is told in a packet.
                            let _ = answer.send(Err(refusal));
                            continue;
                        }
                    };
                    let written = connection.write(&packet).await;
                    if let Ok(leg) = written.and_then(|()| connection.into_leg(socket)) {
                        // An IN channel that is gone drops it.
                        let _ = answer.send(Ok(leg));
                    }
                    return;
                }
                // The IN channel is gone.
                None => return connection.close().await,
            },
            () = &mut time_is_up, if !is_attached => {
                drop(wait);
                return connection.refuse_in(&[], &Code::RequestTimeout.into()).await;
            }
            readable = connection.wait_readable() => {
                // Nothing may come; what TLS has to say is no data.
                let filled = match readable {
                    Ok(()) => connection.fill().await,
                    Err(error) => Err(error.into()),
                };
                if filled.is_err() || !connection.received().is_empty() {
                    return;
                }
            }
        }
    }
}

/// The first of two requests for an IN channel: it is there to be refused.
pub async fn answer_first(
    connection: &mut Connection,
    head: &RequestHead,
) -> Result<Next, Refusal> {
    require_a_way_to_sign_in(head)?;
    answer(connection, head, &http_head::answer(200, None, &[])).await
}

/// The second: its chunks carry the client's packets. It is not answered, unless
/// it is refused.
pub async fn attach_in(connection: Connection, head: &RequestHead) {
    match take_out(&connection, head).await {
        Ok(out) => {
            let packets = Packets::new(chunked::Decoder::new());
            greet(Client { connection, packets, out: Out::Channel(out) }, head).await;
        }
        Err(code) => connection.refuse(&code.into()).await,
    }
}

async fn take_out(connection: &Connection, head: &RequestHead) -> Result<OutChannel, Code> {
    require_a_way_to_sign_in(head)?;
    let key = ChannelKey::of(connection.peer.ip(), head)?;
    let out = lock(&connection.shared.out_channels).take(&key).ok_or(Code::ChannelUnpaired)?;
    // Its connection may have ended this moment.
    out.attach().await.map_err(|_| Code::ChannelUnpaired)?;
    Ok(out)
}

async fn greet(mut client: Client<chunked::Decoder>, head: &RequestHead) {
    let Greeted { claims, arrived, agreed } = match client.greet(head.bearer_anywhere()).await {
        Ok(greeted) => greeted,
        Err(farewell) => return client.bid(farewell).await,
    };
    let (shared, session) = (Arc::clone(&client.connection.shared), claims.session);
    let opened = match (&client.out, client.connection.reserve_socket()) {
        (Out::Channel(out), Ok(socket)) => {
            out.open(channel_opened()).await.map(|leg| leg.map(|leg| (leg, socket)))
        }
        (_, Err(refusal)) => Ok(Err(refusal)),
        (Out::WebSocket, _) => Ok(Err(Code::Internal.into())),
    };
    let (leg, socket) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(refusal)) => {
            give_up(&shared, session, refusal.code);
            return client.bid(Farewell::channel_refused(refusal)).await;
        }
        Err(_) => return client_left(&shared, session),
    };
    let Client { connection, packets, .. } = client;
    let meter = Rc::clone(&connection.meter);
    match connection.into_leg(socket) {
        Ok(inbound) => {
            let decoders = (packets.into_carrier(), tsgu::Decoder::new());
            let deframer = Deframer::TsguChunks(Box::new(decoders));
            let inbound = Leg { deframer, framer: Framer::Silent, ..inbound };
            let leg = Leg {
                deframer: Deframer::Silent,
                framer: Framer::TsguHttp(agreed),
                inbound: Some(Box::new(inbound)),
                ..leg
            };
            begin(&shared, claims, leg, arrived, &meter);
        }
        Err(_) => client_left(&shared, session),
    }
}
