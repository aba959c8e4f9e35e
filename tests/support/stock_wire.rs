//! Stock clients, byte by byte: their requests and their frames.

use ringway::core::ids::SessionId;
use ringway::core::tickets::Role;
use ringway::wire::channel::{GatewayToBroker, PlaceRequest};

use super::legs::{Leg, Reply, dial};
use super::wait::until;
use super::world::World;

/// `printf 'Bearer %s' | jq -sRr @uri` does the same to it.
pub const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.dG9rZW4tb2YtYW5u.c2ln-bmF0_dXJl";

pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// As FreeRDP 3 sends them; the key of RFC 6455 1.3.
pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-Websocket-Version: 13\r\nSec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The request for a WebSocket of FreeRDP from 3.27 on: token in the query alone.
pub fn upgrade(target: &str) -> String {
    let separator = if target.contains('?') { '&' } else { '?' };
    format!(
        "GET {target}{separator}ClmTk=Bearer%20{TOKEN} HTTP/1.1\r\nHost: 127.0.0.1\r\n\
         Cookie: ARRAffinity=gw-1;\r\n{UPGRADE}\r\n"
    )
}

/// The same of WebSocket URL mode, and of older ones: token in a header.
pub fn upgrade_with_header(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n{UPGRADE}\r\n"
    )
}

/// One masked frame.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The gateway's next frame: opcode and payload. It must be whole and unmasked.
pub async fn next_frame(leg: &mut Leg) -> (u8, Vec<u8>) {
    let head = leg.receive(2).await;
    assert_eq!(head[0] & 0xf0, 0x80, "fragmented, or with reserved bits");
    let len = match head[1] {
        short @ 0..126 => usize::from(short),
        126 => {
            let long = leg.receive(2).await;
            usize::from(u16::from_be_bytes([long[0], long[1]]))
        }
        other => panic!("a mask, or a frame that is too long: {other:#x}"),
    };
    (head[0] & 0x0f, leg.receive(len).await)
}

impl World {
    /// The places that were asked for so far.
    pub fn places_asked(&self) -> Vec<PlaceRequest> {
        self.broker.heard(|heard| match &heard.message {
            GatewayToBroker::Place(place) => Some(place.clone()),
            _ => None,
        })
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: &str) -> Reply {
        dial(self.gateway.address, &self.tls).await.ask(request).await
    }

    /// Sends the request, brings its host, and returns both ends of the session
    /// that came of it; the first answer must be a `101`.
    pub async fn join(&self, request: &[u8]) -> (Leg, Leg, SessionId) {
        let before = self.broker.orchestrations().len();
        let mut client = dial(self.gateway.address, &self.tls).await;
        client.send(request).await;
        let (host, session) = self.next_host(before).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 101, "{reply:?}");
        (client, host, session)
    }

    /// The host of the next session that one is asked for, after so many.
    pub async fn next_host(&self, before: usize) -> (Leg, SessionId) {
        until("the broker is asked for a host", || self.broker.orchestrations().len() > before)
            .await;
        let session = self.broker.orchestrations()[before];
        (self.leg(Role::Host, session).await.unwrap(), session)
    }
}
