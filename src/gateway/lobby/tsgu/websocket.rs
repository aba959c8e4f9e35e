//! All packets in both directions over one WebSocket.

use std::rc::Rc;
use std::sync::Arc;

use super::{Client, Farewell, Greeted, Out, Packets, channel_opened, require_a_way_to_sign_in};
use crate::core::codes::{Code, Refusal};
use crate::gateway::lobby::connection::Connection;
use crate::gateway::lobby::waiting::{begin, client_left, give_up};
use crate::gateway::relay::Leg;
use crate::gateway::relay::framing::{Deframer, Framer};
use crate::wire::http_head::RequestHead;
use crate::wire::websocket::{self, SERVER_HEADER_LEN_MAX, write_server_header};
use crate::wire::{tsgu, websocket_upgrade};

/// A request to become a WebSocket. Granted at once: here failures have their
/// place in packets, and clients know their names.
pub async fn over_websocket(mut connection: Connection, head: &RequestHead) {
    let accepted = match accept(&connection, head) {
        Ok(accepted) => accepted,
        Err(refusal) => return connection.refuse(&refusal).await,
    };
    if connection.write(&accepted).await.is_err() {
        return;
    }
    let packets = Packets::new(websocket::Decoder::new());
    let mut client = Client { connection, packets, out: Out::WebSocket };
    let Greeted { claims, arrived, agreed } = match client.greet(head.bearer_anywhere()).await {
        Ok(greeted) => greeted,
        Err(farewell) => return client.bid(farewell).await,
    };
    let (shared, session) = (Arc::clone(&client.connection.shared), claims.session);
    let socket = match client.connection.reserve_socket() {
        Ok(socket) => socket,
        Err(refusal) => {
            give_up(&shared, session, refusal.code);
            return client.bid(Farewell::channel_refused(refusal)).await;
        }
    };
    let meter = Rc::clone(&client.connection.meter);
    let opened = client.connection.write(&framed(&channel_opened())).await;
    let Client { connection, packets, .. } = client;
    match opened.and_then(|()| connection.into_leg(socket)) {
        Ok(leg) => {
            let decoders = (packets.into_carrier(), tsgu::Decoder::new());
            let deframer = Deframer::TsguWebSocket(Box::new(decoders));
            let leg = Leg { deframer, framer: Framer::TsguWebSocket(agreed), ..leg };
            begin(&shared, claims, leg, arrived, &meter);
        }
        Err(_) => client_left(&shared, session),
    }
}

fn accept(connection: &Connection, head: &RequestHead) -> Result<Vec<u8>, Refusal> {
    require_a_way_to_sign_in(head)?;
    if connection.shared.is_draining() {
        return Err(Code::GatewayDraining.into());
    }
    Ok(websocket_upgrade::accept(head)?)
}

/// A packet in a frame of its own; nothing in none.
pub(super) fn framed(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; SERVER_HEADER_LEN_MAX];
    // Packets of a greeting are all far shorter than a frame can be.
    let header = write_server_header(&mut frame, packet.len()).unwrap_or_default();
    frame.truncate(header);
    frame.extend(packet);
    if packet.is_empty() { Vec::new() } else { frame }
}
