//! Messages on the channel that agents and gateways hold open to a broker:
//! one JSON text per WebSocket message, each inside an [`Envelope`].
//!
//! Adding a field with a default or a message is compatible; anything else
//! needs a new [`VERSION`].

use serde::{Deserialize, Serialize};

use crate::core::clock::UnixMillis;
use crate::core::codes::Refusal;
use crate::core::health::HostCheck;
use crate::core::ids::{GatewayId, HostId, Label, SessionId};
use crate::core::secret::Secret;
use crate::core::selection::Explain;
use crate::core::tickets::PublishedKey;

/// Version of everything in this file.
pub const VERSION: u16 = 1;

/// A longer message closes the channel.
pub const MESSAGE_LENGTH_MAX: usize = 1024 * 1024;

/// A longer certificate is not kept, and clients check the host by its name.
pub const CERTIFICATE_LENGTH_MAX: usize = 16 * 1024;

/// Live sessions in one message of a gateway. Each takes 35 bytes of text.
pub const LIVE_PER_MESSAGE_MAX: usize = 20_000;

/// What every message travels in, in both directions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Envelope<M> {
    /// "Are you there?" Answered with [`Envelope::Answer`] and the same number.
    Beat {
        seq: u64,
    },
    Answer {
        seq: u64,
    },
    /// The last message before the sender closes.
    Goodbye {
        refusal: Refusal,
    },
    Body {
        body: M,
    },
}

/// What an agent sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentToBroker {
    /// First message. `live` are the sessions that this agent still carries,
    /// so that a broker that restarted counts them.
    Hello {
        version: u16,
        software: String,
        live: Vec<SessionId>,
        capacity: u32,
        /// What the operator calls hosts like this one.
        #[serde(default)]
        labels: Vec<Label>,
        /// As in [`AgentToBroker::Health`]; empty before the first round.
        #[serde(default)]
        checks: Vec<HostCheck>,
    },
    /// How the host is: all checks, when one changed and now and then.
    Health {
        checks: Vec<HostCheck>,
    },
    /// The certificate that the host's RDP server shows, as base64 of its DER,
    /// at most [`CERTIFICATE_LENGTH_MAX`] long: after the hello, and when it
    /// changed.
    RdpCertificate {
        der: String,
    },
    /// Answer to [`BrokerToAgent::Order`]: the target was reached and the
    /// agent dials the gateway now.
    OrderAccepted {
        session: SessionId,
    },
    /// Answer to [`BrokerToAgent::Order`].
    OrderRefused {
        session: SessionId,
        refusal: Refusal,
    },
    /// An accepted order came to nothing.
    OrderFailed {
        session: SessionId,
        refusal: Refusal,
    },
    /// The gateway let the leg in and bytes may flow.
    SessionStarted {
        session: SessionId,
    },
    SessionEnded {
        session: SessionId,
        bytes_up: u64,
        bytes_down: u64,
    },
    /// The agent stops: it refuses every order from now on. A new hello takes
    /// it back.
    Draining,
}

/// What a broker sends to an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BrokerToAgent {
    /// Answer to the hello.
    Welcome { version: u16, host: HostId, draining: bool },
    /// Step 9: dial this gateway with this ticket (step 10).
    Order(Order),
    /// The order is void or the session has to end.
    Cancel { session: SessionId, refusal: Refusal },
}

/// An order to a session host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub session: SessionId,
    pub gateway: GatewayId,
    /// `https://host:port` of exactly that gateway instance.
    pub gateway_url: String,
    pub ticket: Secret,
    pub answer_within_ms: u64,
}

/// What a gateway sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum GatewayToBroker {
    /// First message. `url` is where clients, hosts and other gateways reach
    /// this instance; `live` are the sessions that it relays right now, or, if
    /// there are `more` than [`LIVE_PER_MESSAGE_MAX`], the first of them.
    Hello {
        version: u16,
        software: String,
        url: String,
        capacity: u32,
        live: Vec<SessionId>,
        #[serde(default)]
        more: bool,
    },
    /// Follows at once on a hello with `more`, until `more` is false. Only
    /// then is it known which sessions are not live.
    AlsoLive { live: Vec<SessionId>, more: bool },
    /// Load, about once a second. `connections` are the live sessions of which this
    /// channel has told; those that it has not are on their way in the broker's books.
    Load { connections: u32, waiting: u32, draining: bool },
    /// Step 7 and 9, first half: reserve a place on a host for this user and
    /// sign the client's ticket for the gateway that was selected.
    Place(PlaceRequest),
    /// Whose is this token? Asked before a user is shown the gateways, and only
    /// of a broker whose welcome says that it answers.
    CheckToken {
        request: u64,
        bearer: Secret,
        /// It must be of the user who has this session. Only to a broker whose
        /// welcome says that it compares.
        #[serde(default)]
        session: Option<SessionId>,
    },
    /// Step 8: the client is here with a valid ticket, send the host.
    Orchestrate { request: u64, session: SessionId },
    /// Step 11 begins.
    SessionStarted { session: SessionId },
    /// The relay, or the wait for it, is over.
    SessionEnded {
        session: SessionId,
        close_reason: String,
        bytes_up: u64,
        bytes_down: u64,
        duration_ms: u64,
    },
}

/// What a user asks for, as far as the gateway knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaceRequest {
    /// Chosen by the gateway, echoed in the answer.
    pub request: u64,
    /// The user's bearer token. The broker judges it.
    pub bearer: Secret,
    /// `remoteapplicationprogram` of the .rdp file.
    pub application: String,
    /// `loadbalanceinfo` of the .rdp file.
    pub load_balance_info: String,
    pub client_address: String,
    /// The gateway selected for this session.
    pub gateway: GatewayId,
    /// Why that one. The broker chooses among the gateways of this record.
    pub explain: Explain,
    /// The session id that the selection broke ties with.
    pub session: SessionId,
    /// The client is at that gateway already, and no other will do. It may come
    /// back from a session that it has just lost.
    #[serde(default)]
    pub here_only: bool,
}

/// What a broker sends to a gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BrokerToGateway {
    /// Answer to the hello.
    Welcome {
        version: u16,
        gateway: GatewayId,
        ticket_keys: Vec<PublishedKey>,
        /// It answers [`GatewayToBroker::CheckToken`].
        #[serde(default)]
        checks_tokens: bool,
        /// And heeds its `session`.
        #[serde(default)]
        compares_users: bool,
    },
    /// The gateway table and ticket keys, on change and about once a second.
    Gateways {
        gateways: Vec<GatewayEntry>,
        ticket_keys: Vec<PublishedKey>,
    },
    /// Answer to [`GatewayToBroker::Place`].
    Placed {
        request: u64,
        placement: Placement,
    },
    PlaceRefused {
        request: u64,
        refusal: Refusal,
    },
    /// Answer to [`GatewayToBroker::CheckToken`]: a user's, unless refused.
    TokenChecked {
        request: u64,
        refusal: Option<Refusal>,
    },
    /// Answer to [`GatewayToBroker::Orchestrate`]: the host accepted the order.
    Orchestrated {
        request: u64,
    },
    OrchestrateRefused {
        request: u64,
        refusal: Refusal,
    },
    /// The host that accepted the order cannot come after all: tell the
    /// waiting client. A session that is already relayed ends as well.
    Cancel {
        session: SessionId,
        refusal: Refusal,
    },
    /// An administrator ended these sessions: end them, refuse their tickets.
    /// Also follows the welcome, for a gateway that was away.
    Revoked {
        sessions: Vec<SessionId>,
    },
}

/// A reserved place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    pub session: SessionId,
    pub host: HostId,
    pub gateway_url: String,
    pub client_ticket: Secret,
    pub expires_at: UnixMillis,
    /// What the broker chose; absent: what the gateway had.
    #[serde(default)]
    pub settled: Option<Settled>,
    /// The certificate that the host's RDP server shows, as base64 of its DER.
    /// Absent: its agent has not said.
    #[serde(default)]
    pub server_certificate: Option<String>,
}

/// The broker's last word on which gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    pub gateway: GatewayId,
    pub explain: Explain,
}

/// One gateway as the broker sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayEntry {
    pub gateway: GatewayId,
    pub url: String,
    pub connections: u32,
    /// Placed there and not in `connections` yet.
    pub in_flight: u32,
    pub capacity: u32,
    pub draining: bool,
    /// Age of the load report.
    pub age_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::codes::Code;

    #[test]
    fn messages_survive_their_text() {
        let order = Envelope::Body {
            body: BrokerToAgent::Order(Order {
                session: SessionId([3; 16]),
                gateway: "gw-1".parse().unwrap(),
                gateway_url: "https://gw-1.example:443".into(),
                ticket: "rw1.k.c.s".into(),
                answer_within_ms: 1_000,
            }),
        };
        assert!(!format!("{order:?}").contains("rw1"), "a ticket in a log");
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Envelope<BrokerToAgent>>(&text).unwrap(), order);

        let goodbye: Envelope<AgentToBroker> =
            Envelope::Goodbye { refusal: Refusal::new(Code::ChannelReplaced) };
        let text = serde_json::to_string(&goodbye).unwrap();
        assert_eq!(serde_json::from_str::<Envelope<AgentToBroker>>(&text).unwrap(), goodbye);
    }

    #[test]
    fn older_peers_that_know_no_reauthentication_are_understood() {
        let check = r#"{"type":"check_token","request":7,"bearer":"token"}"#;
        let without =
            GatewayToBroker::CheckToken { request: 7, bearer: "token".into(), session: None };
        assert_eq!(serde_json::from_str::<GatewayToBroker>(check).unwrap(), without);
        let welcome = r#"{"type":"welcome","version":1,"gateway":"gw-1","ticket_keys":[],
            "checks_tokens":true}"#;
        let welcome = serde_json::from_str(welcome).unwrap();
        assert!(matches!(welcome, BrokerToGateway::Welcome { compares_users: false, .. }));
    }
}
