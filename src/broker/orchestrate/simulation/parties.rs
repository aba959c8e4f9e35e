//! Session hosts, gateways and clients as far as a broker notices them.

use std::collections::{BTreeMap, BTreeSet};

use crate::broker::orchestrate::ChannelNumber;
use crate::channel::pump::OutboxQueue;
use crate::core::codes::Code;
use crate::core::ids::{GatewayId, HostId, SessionId};
use crate::wire::channel::{BrokerToAgent, BrokerToGateway, Envelope};

/// The machine's end of a channel to the broker.
#[derive(Debug)]
pub(super) struct Link<M> {
    pub(super) channel: ChannelNumber,
    /// What the broker has posted and the network has not taken yet.
    pub(super) queue: OutboxQueue<M>,
}

impl<M> Link<M> {
    /// The next message that the broker has posted.
    pub(super) fn next(&mut self) -> Option<(ChannelNumber, M)> {
        loop {
            match self.queue.try_next()? {
                Envelope::Body { body } => return Some((self.channel, body)),
                Envelope::Goodbye { .. } | Envelope::Beat { .. } | Envelope::Answer { .. } => {}
            }
        }
    }
}

/// A session host with its agent.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) link: Option<Link<BrokerToAgent>>,
    /// The agent's own limit, its last line of defence.
    pub(super) capacity: usize,
    pub(super) seats: BTreeMap<SessionId, Seat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) accepted: bool,
    pub(super) gateway: usize,
}

impl Host {
    /// What its hello says.
    pub(super) fn live(&self) -> Vec<SessionId> {
        self.seats.iter().filter(|(_, seat)| seat.accepted).map(|(session, _)| *session).collect()
    }
}

#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) id: GatewayId,
    pub(super) link: Option<Link<BrokerToGateway>>,
    pub(super) next_request: u64,
    /// Questions to the broker: which client waits for the answer.
    pub(super) asked: BTreeMap<u64, usize>,
    /// Orders to the broker: the session that the answer is about.
    pub(super) ordered: BTreeMap<u64, SessionId>,
    /// Clients that are here and wait for their host.
    pub(super) waiting: BTreeSet<SessionId>,
    /// Relayed sessions and the host of each.
    pub(super) live: BTreeMap<SessionId, usize>,
}

impl Gateway {
    pub(super) fn request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) user: String,
    pub(super) session: SessionId,
    pub(super) gateway: usize,
    /// It was here before, and has no choice of gateways.
    pub(super) returns: bool,
    pub(super) outcome: Option<Outcome>,
}

/// How a client's attempt came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Live,
    Refused(Code),
    /// The client gave up, or what carried it broke down.
    Lost,
}
