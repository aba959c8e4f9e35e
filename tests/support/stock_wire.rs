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
    let long = u16::try_from(payload.len());
    match (u8::try_from(payload.len()), long) {
        (Ok(short @ 0..126), _) => frame.push(0x80 | short),
        (_, Ok(long)) => {
            frame.push(0x80 | 126);
            frame.extend(long.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
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

/// One packet of MS-TSGU 2.2.10.
pub fn packet(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = 8 + u32::try_from(body.len()).unwrap();
    [&kind.to_le_bytes()[..], &[0, 0], &length.to_le_bytes(), body].concat()
}

/// Splits a packet that is whole.
pub fn split_packet(packet: &[u8]) -> (u16, Vec<u8>) {
    let length = u32::from_le_bytes(packet[4..8].try_into().unwrap());
    assert_eq!(length as usize, packet.len(), "more, or less, than one packet: {packet:?}");
    assert_eq!(packet[2..4], [0, 0]);
    (u16::from_le_bytes([packet[0], packet[1]]), packet[8..].to_vec())
}

/// Text with its length in front of it. FreeRDP counts a NUL, others have none.
fn counted(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [&u16::try_from(units.len()).unwrap().to_le_bytes()[..], &units].concat()
}

pub const PAA: u16 = 2;
pub const BEARER: u16 = 8;

pub fn handshake(ext_auth: u16) -> Vec<u8> {
    packet(0x1, &[&[1, 0, 0, 0][..], &ext_auth.to_le_bytes()].concat())
}

pub fn tunnel_create(cookie: Option<&str>) -> Vec<u8> {
    tunnel_create_with(0xd, None, cookie)
}

/// With capabilities of its own, and the context of a tunnel that is to be
/// authenticated again.
pub fn tunnel_create_with(
    capabilities: u32,
    context: Option<u64>,
    cookie: Option<&str>,
) -> Vec<u8> {
    let fields = u16::from(cookie.is_some()) | u16::from(context.is_some()) << 1;
    let front = [&capabilities.to_le_bytes()[..], &fields.to_le_bytes(), &[0, 0]].concat();
    let context = context.map(|context| context.to_le_bytes().to_vec()).unwrap_or_default();
    let cookie = cookie.map(|cookie| counted(&format!("{cookie}\0"))).unwrap_or_default();
    packet(0x4, &[front, context, cookie].concat())
}

pub fn tunnel_auth() -> Vec<u8> {
    packet(0x6, &[vec![0, 0], counted("workstation\0")].concat())
}

pub fn channel_create(target: &str) -> Vec<u8> {
    let front = [&[1, 0][..], &3_389_u16.to_le_bytes(), &3_u16.to_le_bytes()].concat();
    packet(0x8, &[front, counted(&format!("{target}\0"))].concat())
}

pub fn data(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_le_bytes();
    packet(0xA, &[&length[..], payload].concat())
}

/// The whole greeting of a client with a cookie.
pub fn greeting(target: &str) -> [Vec<u8>; 4] {
    [handshake(PAA), tunnel_create(Some(TOKEN)), tunnel_auth(), channel_create(target)]
}

/// What a greeting without a fault is answered.
pub fn granted() -> [(u16, Vec<u8>); 4] {
    [
        (0x2, vec![0, 0, 0, 0, 1, 0, 0, 0, 2, 0]),
        (0x5, vec![0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0]),
        (0x7, vec![0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0]),
        (0x9, vec![0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]),
    ]
}

/// Status of a packet that ends a greeting.
pub fn status_of((kind, body): &(u16, Vec<u8>)) -> u32 {
    let at = if *kind == 0x5 { 2 } else { 0 };
    u32::from_le_bytes(body[at..at + 4].try_into().unwrap())
}

impl World {
    /// The tokens that the broker was asked about.
    pub fn tokens_checked(&self) -> Vec<String> {
        self.broker.heard(|heard| match &heard.message {
            GatewayToBroker::CheckToken { bearer, .. } => Some(bearer.expose().to_owned()),
            _ => None,
        })
    }

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
