//! What is fuzzed: one function per way in which bytes from the network reach
//! a parser. Each takes any bytes, and panics when a promise is broken: not
//! only "never panics", but what a verdict means.
//!
//! The same functions serve two drivers: libFuzzer (`fuzz_targets/`, guided by
//! coverage) and `tests/it/fuzz_corpora.rs` (the committed corpora and a bounded
//! number of mutations, in every test run).

mod framing;
mod handshakes;
mod records;
mod sign_in;
mod signed;

use std::fmt::Debug;

use ringway::channel::enroll::EnrolToken;
use ringway::core::codes::Refusal;
use ringway::tls::record::{Framed, MAX_RECORD_LEN, next_record};
use ringway::wire::admin::{AdminResponse, BrokerRequest};
use ringway::wire::arm::{ConnectionRequest, ConnectionResponse, GatewayList, RefusalBody};
use ringway::wire::channel::{
    AgentToBroker, BrokerToAgent, BrokerToGateway, Envelope, GatewayToBroker,
};
use ringway::wire::enroll::{EnrolRequest, EnrolResponse};
use ringway::wire::feed::{Discovery, Feed};
use ringway::wire::http_head::{HeadStatus, RequestHead};
use ringway::wire::relay_answer::{self, Answer};
use ringway::wire::tswp::Schema;
use ringway::wire::x224::{self, ConnectionConfirm, NotX224, Protocols};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One way in.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of the corpus, and of the binary that libFuzzer drives.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// How many inputs of the cheapest target cost as much as one of this.
    pub cost: u32,
}

pub const ALL: &[Target] = &[
    Target { name: "accept", run: accept, cost: 1 },
    Target { name: "admin", run: admin, cost: 1 },
    Target { name: "arm", run: arm, cost: 1 },
    Target { name: "channel", run: channel, cost: 1 },
    Target { name: "chunked", run: framing::chunked, cost: 2 },
    Target { name: "enrol_request", run: signed::enrol_request, cost: 4 },
    Target { name: "enrol_token", run: enrol_token, cost: 1 },
    Target { name: "feed_cookie", run: signed::feed_cookie, cost: 4 },
    Target { name: "http_head", run: http_head, cost: 1 },
    Target { name: "identity_token", run: signed::identity_token, cost: 4 },
    Target { name: "rdp_file", run: signed::rdp_file, cost: 4 },
    Target { name: "rdp_signature", run: signed::rdp_signature, cost: 4 },
    Target { name: "rdp_stream", run: framing::rdp_stream, cost: 2 },
    Target { name: "rdsaad", run: signed::rdsaad, cost: 4 },
    Target { name: "record_frame", run: record_frame, cost: 1 },
    Target { name: "record_layer", run: records::record_layer, cost: 40 },
    Target { name: "relay_answer", run: relay_answer, cost: 1 },
    Target { name: "sign_in", run: sign_in::sign_in, cost: 1 },
    Target { name: "ticket", run: signed::ticket, cost: 4 },
    Target { name: "tls_conversation", run: handshakes::conversation, cost: 40 },
    Target { name: "tls_greeting", run: handshakes::greeting, cost: 20 },
    Target { name: "tsgu_relay", run: framing::tsgu_relay, cost: 2 },
    Target { name: "tsgu_request", run: framing::tsgu_request, cost: 1 },
    Target { name: "websocket", run: framing::websocket, cost: 2 },
    Target { name: "x224", run: x224, cost: 1 },
];

/// Runs the target of that name.
pub fn run(name: &str, input: &[u8]) {
    let target = ALL.iter().find(|target| target.name == name).expect("a target of that name");
    (target.run)(input);
}

/// A gateway reads the head of whatever a stranger sends after TLS.
pub fn http_head(input: &[u8]) {
    const LENGTH_MAX: usize = 1_024;
    let Ok(HeadStatus::Complete(head)) = RequestHead::parse(input, LENGTH_MAX) else { return };
    assert!(head.length <= LENGTH_MAX.min(input.len()));
    let (text, _body) = input.split_at(head.length);
    let again = RequestHead::parse(text, LENGTH_MAX);
    assert_eq!(again.as_ref(), Ok(&HeadStatus::Complete(head.clone())), "what follows matters");
    for cut in [0, head.length / 2, head.length - 1] {
        let verdict = RequestHead::parse(&input[..cut], LENGTH_MAX);
        assert_eq!(verdict, Ok(HeadStatus::Partial), "cut at {cut}");
    }
    // RFC 9112 6.3: where the body ends must not be open to interpretation.
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let named = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(named("transfer-encoding:"), usize::from(head.is_chunked));
    assert!(!head.is_chunked || (head.method == "RDG_IN_DATA" && head.content_length == 0));
    assert!(named("content-length:") <= 1);
    assert_eq!(named("content-length:") == 0, head.header("content-length").is_none());
    assert!(!head.path.contains(['?', ' ', '\r', '\n']));
    assert!(head.bearer().is_none_or(|token| token.trim() == token));
    let shown = format!("{head:?}");
    for secret in head.bearer_anywhere().into_iter().chain(head.query_parameter("place")) {
        let found = shown.contains(secret.expose());
        let harmless = secret.expose().len() < 16 || head.path.contains(secret.expose());
        assert!(!found || harmless || head.method.contains(secret.expose()), "{shown}");
    }
}

/// A broker reads what kind of feed a stranger can read.
pub fn accept(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let schema = Schema::asked_for(text);
    if schema == Schema::V1_1 {
        return;
    }
    let lower = text.to_ascii_lowercase();
    assert!(lower.contains("application/x-msts-radc+xml") && lower.contains("radc_schema_version"));
    assert!(lower.contains(schema.version()), "nobody asked for {}", schema.version());
    let with_others = format!("text/xml, {text}, */*");
    assert_eq!(Schema::asked_for(&with_others), schema, "what else is accepted matters");
}

/// An agent and a connector read a gateway's answer.
pub fn relay_answer(input: &[u8]) {
    let (Ok(Some(answer)), length) = (relay_answer::parse(input), input.len()) else { return };
    let (Answer::Switched { head_length } | Answer::Refused { head_length, .. }) = answer;
    assert!(head_length <= length.min(relay_answer::HEAD_LENGTH_MAX));
    assert_eq!(relay_answer::parse(&input[..head_length]), Ok(Some(answer)));
    assert_eq!(relay_answer::parse(&input[..head_length - 1]), Ok(None), "a switch came early");
    if let Answer::Refused { status, .. } = answer {
        assert_ne!(status, 101);
    }
}

/// An agent reads what an RDP client begins with, and what an RDP server
/// answers.
pub fn x224(input: &[u8]) {
    if let Ok(Some((confirm, length))) = ConnectionConfirm::parse(input) {
        assert!(length <= x224::CONFIRM_BYTES_MAX);
        assert_eq!(ConnectionConfirm::parse(&confirm.to_bytes()), Ok(Some((confirm, length))));
        assert_eq!(ConnectionConfirm::parse(&input[..length - 1]), Ok(None));
    }
    match x224::ConnectionRequest::parse(input) {
        Ok(None) => assert!(input.len() < x224::REQUEST_BYTES_MAX, "it waits for ever"),
        Ok(Some((request, length))) => {
            assert!(length <= x224::REQUEST_BYTES_MAX.min(input.len()));
            for cut in [0, 4, length / 2, length - 1] {
                assert_eq!(x224::ConnectionRequest::parse(&input[..cut]), Ok(None));
            }
            let sent = request.offering(Protocols::SSL).for_server();
            let (again, sent_length) = x224::ConnectionRequest::parse(&sent).unwrap().unwrap();
            assert_eq!((sent_length, usize::from(sent[4])), (sent.len(), sent.len() - 5));
            assert_eq!(again.routing_token, None, "a server gets what is not for it");
            assert!(again.cookie.is_none() || again.cookie == request.cookie);
            let protocols = again.negotiation.map(|negotiation| negotiation.protocols);
            assert_eq!(protocols, request.negotiation.map(|_| Protocols::SSL));
        }
        Err(NotX224) => {
            let longer = [input, &[0; 64]].concat();
            assert_eq!(x224::ConnectionRequest::parse(&longer), Err(NotX224));
        }
    }
}

/// What agents, gateways and brokers tell each other.
pub fn channel(input: &[u8]) {
    survives_its_text::<Envelope<AgentToBroker>>(input);
    survives_its_text::<Envelope<BrokerToAgent>>(input);
    survives_its_text::<Envelope<BrokerToGateway>>(input);
    survives_its_text::<Envelope<GatewayToBroker>>(input);
}

/// What clients ask over HTTPS, and what they are answered.
pub fn arm(input: &[u8]) {
    survives_its_text::<ConnectionRequest>(input);
    survives_its_text::<ConnectionResponse>(input);
    survives_its_text::<GatewayList>(input);
    survives_its_text::<RefusalBody>(input);
    survives_its_text::<Refusal>(input);
    survives_its_text::<Discovery>(input);
    survives_its_text::<Feed>(input);
}

/// What an operator asks over the admin socket, and is answered.
pub fn admin(input: &[u8]) {
    survives_its_text::<BrokerRequest>(input);
    survives_its_text::<AdminResponse>(input);
}

/// What an operator pastes.
pub fn enrol_token(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(token) = text.parse::<EnrolToken>() else { return };
    assert_eq!(token.text().expose(), text.trim(), "the broker is sent another text");
    assert!(token.text().expose().ends_with(&text.trim()[text.trim().len() - 32..]));
    assert!(text.trim().to_ascii_lowercase().ends_with(&token.ca_pin.to_string()));
    let secret = &text.trim()[4..36];
    assert!(!format!("{token:?}").contains(secret), "a secret is printed");
}

/// Where a record ends, in front of everything else that TLS does.
pub fn record_frame(input: &[u8]) {
    let mut rest = input;
    loop {
        match next_record(rest) {
            Ok(Framed::Complete { header, total_len }) => {
                assert_eq!(total_len, 5 + header.payload_len);
                assert!((5..=MAX_RECORD_LEN).contains(&total_len));
                let (record, more) = rest.split_at(total_len);
                assert_eq!(next_record(record), Ok(Framed::Complete { header, total_len }));
                for cut in [0, 1, 4, 5, total_len - 1].into_iter().filter(|cut| *cut < total_len) {
                    let verdict = next_record(&record[..cut]);
                    let Ok(Framed::Incomplete { needed }) = verdict else {
                        panic!("{verdict:?} of {cut} bytes");
                    };
                    assert!(cut < needed && needed <= total_len);
                }
                rest = more;
            }
            Ok(Framed::Incomplete { needed }) => {
                assert!(rest.len() < needed && needed <= MAX_RECORD_LEN);
                return;
            }
            Err(error) => {
                // More bytes never turn a refusal into a record.
                let longer = [rest, &[0; 64]].concat();
                assert_eq!(next_record(&longer), Err(error));
                return;
            }
        }
    }
}

/// JSON that is understood means the same when it is written and read again.
fn survives_its_text<M: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<M>(input) {
        let text = serde_json::to_string(&message).expect("what was read can be written");
        let again: M = serde_json::from_str(&text).expect("what was written can be read");
        assert_eq!(again, message);
    }
}

/// Both halves of an enrolment, which have no equality of their own.
fn enrol_messages(input: &[u8]) -> Option<EnrolRequest> {
    if let Ok(answer) = serde_json::from_slice::<EnrolResponse>(input) {
        let text = serde_json::to_string(&answer).expect("what was read can be written");
        let again: EnrolResponse = serde_json::from_str(&text).expect("and read again");
        assert_eq!(again.certificate_pem, answer.certificate_pem);
    }
    serde_json::from_slice(input).ok()
}

/// Takes decisions from the front of an input; zeros when it is used up.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(b, rest)| (*b, rest));
        self.0 = rest;
        first
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    /// At most so many bytes.
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}
