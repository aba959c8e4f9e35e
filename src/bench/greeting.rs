//! What a leg says after its TLS handshake until it carries a session, as our own
//! ends say it and as stock clients do. Bytes in, bytes out.

use std::collections::VecDeque;

use super::framing::{ClientLeg, Frames, Framing, Stripped, chunk};
use super::leg::LegError;
use crate::wire::relay_answer::{self, Answer};
use crate::wire::{tsgu, websocket_upgrade};

/// Bytes behind the head of an OUT channel's answer, before the first packet.
const SEED_LEN: usize = 10;
/// Where clients of an RD Gateway go.
const TSGU_PATH: &str = "/remoteDesktopGateway/";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-Websocket-Version: 13\r\nSec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// What follows a handshake before a leg carries data.
#[derive(Debug)]
pub enum Greeting {
    /// Nothing.
    None,
    /// A request for the relay, answered with `101`.
    Relay(String),
    /// The same for a WebSocket.
    WebSocket { request: String, frames: Box<Frames> },
    /// A request for a WebSocket, then packets in it, each of them answered.
    Tsgu { request: String, packets: VecDeque<Vec<u8>>, heard: Box<(Frames, Packets)> },
    /// A request whose answer carries the answers to an IN channel's packets.
    TsguOut { request: String, heard: Box<Packets> },
    /// Two requests, the first of which is answered, then packets in chunks: the
    /// first at once, each other when the OUT channel prompts it.
    TsguIn { requests: [String; 2], packets: VecDeque<Vec<u8>> },
    /// A request that is answered, whatever with; then the leg is done.
    Once(String),
}

/// What a batch of plaintext led to.
#[derive(Debug, Default)]
pub struct Heard {
    /// Bytes of it that are dealt with.
    pub used: usize,
    pub say: Vec<u8>,
    /// So many times the other channel may go on.
    pub prompts: u32,
    /// A [`Greeting::Once`] was answered.
    pub answered: bool,
    /// The leg carries data from now on.
    pub is_over: bool,
}

/// A client of an RD Gateway, with its user's token.
#[derive(Debug)]
pub struct TsguClient<'a> {
    /// What the gateway is called, with its port.
    pub authority: &'a str,
    pub token: &'a str,
    pub resource: &'a str,
    /// Tells its two channels from those of others.
    pub number: u32,
}

impl Greeting {
    /// A client of AVD mode that was given a place. `path` begins with `/wst`.
    #[must_use]
    pub fn websocket(authority: &str, path: &str, token: &str, seed: u32) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\
             {UPGRADE}\r\n"
        );
        Self::WebSocket { request, frames: Box::new(Frames::new(seed.into())) }
    }

    /// A client of an RD Gateway over one WebSocket.
    #[must_use]
    pub fn tsgu(client: &TsguClient<'_>) -> Self {
        Self::Tsgu {
            request: client.request("RDG_OUT_DATA", UPGRADE),
            packets: client.packets(),
            heard: Box::new((Frames::new(client.number.into()), Packets::default())),
        }
    }

    /// The same over two channels: OUT, and IN for when OUT has been let in.
    #[must_use]
    pub fn tsgu_http(client: &TsguClient<'_>) -> (Self, Self) {
        let requests = [
            client.request("RDG_IN_DATA", "Content-Length: 0\r\n"),
            client.request("RDG_IN_DATA", "Transfer-Encoding: chunked\r\n"),
        ];
        let packets = client.packets().iter().map(|packet| chunk(packet)).collect();
        let out = client.request("RDG_OUT_DATA", "");
        (Self::TsguOut { request: out, heard: Box::default() }, Self::TsguIn { requests, packets })
    }

    /// The first words.
    #[must_use]
    pub fn opening(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Relay(request)
            | Self::WebSocket { request, .. }
            | Self::Tsgu { request, .. }
            | Self::TsguOut { request, .. }
            | Self::TsguIn { requests: [request, _], .. }
            | Self::Once(request) => request.as_bytes(),
        }
    }

    /// Looks at what the gateway has said and was not dealt with.
    ///
    /// # Errors
    /// When it refuses, or says something else than it should.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Heard, LegError> {
        match self {
            Self::None => Ok(Heard { is_over: true, ..Heard::default() }),
            Self::Once(_) => {
                let answered = !bytes.is_empty();
                Ok(Heard { used: bytes.len(), answered, ..Heard::default() })
            }
            Self::Relay(_) => Ok(over(switched(bytes, relay_answer::PROTOCOL)?)),
            Self::WebSocket { .. } => Ok(over(switched(bytes, websocket_upgrade::PROTOCOL)?)),
            Self::Tsgu { packets, heard, .. } => {
                let (frames, answers) = &mut **heard;
                if !answers.has_begun {
                    let used = switched(bytes, websocket_upgrade::PROTOCOL)?;
                    if used == 0 {
                        return Ok(Heard::default());
                    }
                    answers.has_begun = true;
                    let say = frames.frame(&packets.pop_front().unwrap_or_default());
                    return Ok(Heard { used, say, ..Heard::default() });
                }
                let mut piece = bytes.to_vec();
                let Stripped { len, is_last } = frames.strip(&mut piece)?;
                if is_last {
                    return Err(LegError::Answer("the gateway closed the WebSocket".into()));
                }
                let mut say = Vec::new();
                for _ in 0..answers.take(piece.get(..len).unwrap_or_default())? {
                    say.extend(
                        packets.pop_front().map(|packet| frames.frame(&packet)).unwrap_or_default(),
                    );
                }
                let is_over = answers.are_complete();
                Ok(Heard { used: bytes.len(), say, is_over, ..Heard::default() })
            }
            Self::TsguOut { heard, .. } => {
                if !heard.has_begun {
                    let used = granted(bytes, SEED_LEN)?;
                    heard.has_begun = used > 0;
                    return Ok(Heard { used, prompts: (used > 0).into(), ..Heard::default() });
                }
                let prompts = heard.take(bytes)?;
                let is_over = heard.are_complete();
                Ok(Heard { used: bytes.len(), prompts, is_over, ..Heard::default() })
            }
            Self::TsguIn { requests: [_, second], packets } => {
                let used = granted(bytes, 0)?;
                if used == 0 {
                    return Ok(Heard::default());
                }
                let first = packets.pop_front().unwrap_or_default();
                let say = [second.as_bytes(), &first].concat();
                Ok(Heard { used, say, is_over: true, ..Heard::default() })
            }
        }
    }

    /// How what follows is framed, and what is still to be said when it is
    /// prompted for.
    #[must_use]
    pub fn into_framing(self) -> (Framing, VecDeque<Vec<u8>>) {
        let framing = match self {
            Self::None | Self::Relay(_) | Self::Once(_) => Framing::Raw,
            Self::WebSocket { frames, .. } => Framing::WebSocket(frames),
            Self::Tsgu { heard, .. } => {
                let (frames, _) = *heard;
                Framing::Tsgu(Box::new((frames, tsgu::Decoder::new())))
            }
            Self::TsguOut { .. } => Framing::TsguOut(Box::default()),
            Self::TsguIn { packets, .. } => return (Framing::TsguIn, packets),
        };
        (framing, VecDeque::new())
    }
}

impl TsguClient<'_> {
    fn request(&self, method: &str, more: &str) -> String {
        let Self { authority, number, .. } = self;
        format!(
            "{method} {TSGU_PATH} HTTP/1.1\r\nCache-Control: no-cache\r\nHost: {authority}\r\n\
             User-Agent: MS-RDGateway/1.0\r\n\
             RDG-Connection-Id: {{00000000-0000-4000-8000-{number:012x}}}\r\n\
             RDG-Auth-Scheme: PAA\r\n{more}\r\n"
        )
    }

    /// Handshake, tunnel, authorisation of the tunnel, channel
    /// (MS-TSGU 1.3.2.1.2).
    fn packets(&self) -> VecDeque<Vec<u8>> {
        const VERSION: [u8; 4] = [1, 0, 0, 0];
        const CAPABILITIES: u32 = 0xD;
        const HAS_COOKIE: u16 = 1;
        const ONE_NAME: [u8; 2] = [1, 0];
        const RDP_PORT: u16 = 3_389;
        const PROTOCOL: u16 = 3;
        let handshake = [&VERSION[..], &tsgu::ext_auth::PAA.to_le_bytes()].concat();
        let tunnel = [
            &CAPABILITIES.to_le_bytes()[..],
            &HAS_COOKIE.to_le_bytes(),
            &[0, 0],
            &counted(self.token),
        ];
        let authorisation = [&[0, 0][..], &counted("bench")];
        let channel = [
            &ONE_NAME[..],
            &RDP_PORT.to_le_bytes(),
            &PROTOCOL.to_le_bytes(),
            &counted(self.resource),
        ];
        let bodies = [handshake, tunnel.concat(), authorisation.concat(), channel.concat()];
        bodies.iter().zip(ASKS_AND_ANSWERS).map(|(body, (ask, _))| packet(ask, body)).collect()
    }
}

/// `packetType` of what a client asks and what it is answered, in their order
/// (MS-TSGU 2.2.5.3.3).
const ASKS_AND_ANSWERS: [(u16, u16); 4] = [(0x1, 0x2), (0x4, 0x5), (0x6, 0x7), (0x8, 0x9)];

fn packet(packet_type: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(tsgu::HEADER_LEN + body.len()).unwrap_or(u32::MAX);
    [&packet_type.to_le_bytes()[..], &[0, 0], &length.to_le_bytes(), body].concat()
}

/// UTF-16 with a NUL and the number of its bytes in front, as FreeRDP has it.
fn counted(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let length = u16::try_from(units.len()).unwrap_or(u16::MAX);
    [&length.to_le_bytes()[..], &units].concat()
}

/// The answers to a client's packets.
#[derive(Debug, Default)]
pub struct Packets {
    /// The answer to the HTTP request is through.
    has_begun: bool,
    bytes: Vec<u8>,
    /// Packets that were there, all of them good.
    count: usize,
}

impl Packets {
    /// How many more packets are whole now.
    fn take(&mut self, bytes: &[u8]) -> Result<u32, LegError> {
        self.bytes.extend_from_slice(bytes);
        let mut more = 0;
        while let Some(length) = tsgu::packet_len(&self.bytes)?
            && self.bytes.len() >= length
        {
            let packet: Vec<u8> = self.bytes.drain(..length).collect();
            let kind = packet.first_chunk().copied().map(u16::from_le_bytes).unwrap_or_default();
            let status = status_of(&packet).unwrap_or(u32::MAX);
            let expected = ASKS_AND_ANSWERS.get(self.count).map(|(_, answer)| *answer);
            if (Some(kind), status) != (expected, tsgu::status::SUCCESS) {
                return Err(LegError::Answer(format!(
                    "packet {kind:#x} with status {status:#x} in place of {expected:#x?}"
                )));
            }
            self.count += 1;
            more += 1;
        }
        Ok(more)
    }

    /// The channel is open.
    const fn are_complete(&self) -> bool {
        self.count >= ASKS_AND_ANSWERS.len() && self.bytes.is_empty()
    }
}

/// `errorCode` of an answer. The one about the tunnel begins with a version.
fn status_of(packet: &[u8]) -> Option<u32> {
    const TUNNEL_RESPONSE: [u8; 2] = [0x5, 0];
    let at = tsgu::HEADER_LEN + if packet.starts_with(&TUNNEL_RESPONSE) { 2 } else { 0 };
    Some(u32::from_le_bytes(*packet.get(at..)?.first_chunk()?))
}

/// Length of a `101`'s head; 0 while it is not all there.
fn switched(bytes: &[u8], protocol: &str) -> Result<usize, LegError> {
    match relay_answer::parse_switch(bytes, protocol).map_err(LegError::Answer)? {
        None => Ok(0),
        Some(Answer::Switched { head_length }) => Ok(head_length),
        Some(answer) => refused(bytes, answer),
    }
}

/// Length of a `200`'s head with so many bytes behind it; 0 while it is not all
/// there.
fn granted(bytes: &[u8], behind: usize) -> Result<usize, LegError> {
    match relay_answer::parse(bytes).map_err(LegError::Answer)? {
        None => Ok(0),
        Some(Answer::Refused { head_length, status: 200, .. }) => {
            let whole = head_length + behind;
            Ok(if bytes.len() >= whole { whole } else { 0 })
        }
        Some(answer) => refused(bytes, answer),
    }
}

/// Waits for what a refusal has to say.
fn refused(bytes: &[u8], answer: Answer) -> Result<usize, LegError> {
    let Answer::Refused { head_length, status, body_length } = answer else { return Ok(0) };
    let body = bytes.get(head_length..).unwrap_or_default();
    if body_length.is_some_and(|length| body.len() < length) {
        return Ok(0);
    }
    Err(LegError::Refused(status, String::from_utf8_lossy(body).into_owned()))
}

/// A greeting of one request is over when that was answered.
fn over(used: usize) -> Heard {
    Heard { used, is_over: used > 0, ..Heard::default() }
}

/// How a client that is placed by the gateway greets it, and what its second
/// connection says, if it has one.
#[must_use]
pub fn placed_by_gateway(leg: ClientLeg, client: &TsguClient<'_>) -> (Greeting, Option<Greeting>) {
    match leg {
        ClientLeg::TsguHttp => {
            let (out, inward) = Greeting::tsgu_http(client);
            (out, Some(inward))
        }
        _ => (Greeting::tsgu(client), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tsgu::Request;
    use crate::wire::tsgu::response::{self, Tunnel, TunnelAuth};

    const CLIENT: TsguClient<'_> =
        TsguClient { authority: "gw:443", token: "secret", resource: "desktop", number: 7 };
    const SWITCHED: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

    fn answers() -> [Vec<u8>; 4] {
        [
            response::handshake(0, (1, 0), 2),
            response::tunnel(Ok(Tunnel { id: 1, capabilities: 2 })),
            response::tunnel_auth(Ok(TunnelAuth { redirection_flags: 0, idle_timeout_minutes: 0 })),
            response::channel(Ok(1)),
        ]
    }

    #[test]
    fn packets_are_what_a_gateway_understands() {
        let packets: Vec<Request> =
            CLIENT.packets().iter().map(|packet| Request::parse(packet).unwrap()).collect();
        let [
            Request::Handshake(handshake),
            Request::TunnelCreate(tunnel),
            Request::TunnelAuth(_),
            Request::ChannelCreate(channel),
        ] = &packets[..]
        else {
            panic!("{packets:?}")
        };
        assert_eq!(handshake.ext_auth, tsgu::ext_auth::PAA);
        assert_eq!(tunnel.paa_cookie.as_ref().unwrap().expose(), "secret");
        assert_eq!(channel.resources, ["desktop"]);
    }

    #[test]
    fn each_packet_waits_for_the_answer_to_the_one_before() {
        let mut greeting = Greeting::tsgu(&CLIENT);
        assert!(greeting.opening().starts_with(b"RDG_OUT_DATA /remoteDesktopGateway/ "));
        assert!(greeting.hear(&SWITCHED[..20]).unwrap().say.is_empty());
        let heard = greeting.hear(SWITCHED).unwrap();
        assert_eq!((heard.used, heard.is_over), (SWITCHED.len(), false));
        assert!(!heard.say.is_empty());
        for (index, answer) in answers().iter().enumerate() {
            let frame = [&[0x82, u8::try_from(answer.len()).unwrap()], &answer[..]].concat();
            let (front, back) = frame.split_at(5);
            assert!(greeting.hear(front).unwrap().say.is_empty());
            let heard = greeting.hear(back).unwrap();
            assert_eq!((heard.say.is_empty(), heard.is_over), (index == 3, index == 3));
        }
        assert!(matches!(greeting.into_framing().0, Framing::Tsgu(_)));
    }

    #[test]
    fn one_channel_prompts_the_other() {
        let (mut out, mut inward) = Greeting::tsgu_http(&CLIENT);
        let answer = b"HTTP/1.1 200 OK\r\n\r\n0123456789";
        assert_eq!(out.hear(&answer[..answer.len() - 1]).unwrap().used, 0);
        let heard = out.hear(answer).unwrap();
        assert_eq!((heard.used, heard.prompts), (answer.len(), 1));

        let heard = inward.hear(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert!(heard.is_over && heard.say.starts_with(b"RDG_IN_DATA "));
        let (framing, rest) = inward.into_framing();
        assert!(matches!(framing, Framing::TsguIn) && rest.len() == 3);

        let heard = out.hear(&answers().concat()).unwrap();
        assert_eq!((heard.prompts, heard.is_over), (4, true));
    }

    #[test]
    fn a_refusal_is_told_in_whatever_form_it_comes() {
        let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
        for mut greeting in [
            Greeting::Relay(String::new()),
            Greeting::websocket("gw", "/wst/desktop", "t", 1),
            Greeting::tsgu(&CLIENT),
            Greeting::tsgu_http(&CLIENT).0,
            Greeting::tsgu_http(&CLIENT).1,
        ] {
            assert_eq!(greeting.hear(&refusal[..refusal.len() - 1]).unwrap().used, 0);
            let error = greeting.hear(refusal).unwrap_err();
            assert!(matches!(&error, LegError::Refused(403, body) if body == "no"), "{error}");
        }
        let mut out = Greeting::tsgu_http(&CLIENT).0;
        out.hear(b"HTTP/1.1 200 OK\r\n\r\n0123456789").unwrap();
        let error = out.hear(&response::handshake(0x8007_59F8, (1, 0), 2)).unwrap_err();
        assert!(error.to_string().contains("0x800759f8"), "{error}");
    }
}
