//! What clients, gateways and session hosts do, as the real ones do it.

use tokio::time::Instant;

use super::parties::{Client, Host, Outcome, Seat};
use super::world::{Event, HORIZON_MS, World};
use crate::broker::orchestrate::Judged;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{HostId, SessionId};
use crate::core::placement::{AssignmentKey, PoolKind};
use crate::core::selection::Explain;
use crate::wire::channel::{AgentToBroker, BrokerToAgent, BrokerToGateway, GatewayToBroker};

/// A gateway gives up a question to the broker, and a client without a host.
const ANSWER_MS: u64 = 5_000;
const PAIRING_MS: u64 = 15_000;

impl World {
    pub(super) fn client_asks(&mut self, client: usize) {
        let Client { user, session, gateway, returns, .. } = &self.clients[client];
        let (user, session, target) = (user.clone(), *session, *gateway);
        // Any gateway is asked; the client is sent to the one that was chosen.
        let entry = self.random.below(self.gateways.len());
        let target = self.gateways[target].id.clone();
        let Some(channel) = self.gateways[entry].link.as_ref().map(|link| link.channel) else {
            return self.end(client, Outcome::Refused(Code::BrokerUnreachable));
        };
        let request = self.gateways[entry].request();
        self.gateways[entry].asked.insert(request, client);
        let judged = Judged {
            request,
            session,
            user,
            resource: "desktop".parse().unwrap(),
            pool: "pool".parse().unwrap(),
            client_address: "192.0.2.1:5000".into(),
            gateway: target,
            explain: Explain::default(),
            here_only: *returns,
            asked_at: Instant::now(),
        };
        self.send(Event::Placing { gateway: entry, channel, judged });
        self.at(self.now + ANSWER_MS, Event::AskedInVain { gateway: entry, request });
    }

    pub(super) fn client_arrives(&mut self, client: usize) {
        let Client { session, gateway, .. } = self.clients[client];
        if self.gateways[gateway].link.is_none() {
            return self.end(client, Outcome::Refused(Code::BrokerUnreachable));
        }
        self.gateways[gateway].waiting.insert(session);
        let request = self.gateways[gateway].request();
        self.gateways[gateway].ordered.insert(request, session);
        self.gateway_says(gateway, GatewayToBroker::Orchestrate { request, session });
        self.at(self.now + PAIRING_MS, Event::WaitedInVain { gateway, session });
    }

    pub(super) fn client_leaves(&mut self, client: usize) {
        let Client { session, gateway, .. } = self.clients[client];
        if self.gateways[gateway].waiting.remove(&session) {
            self.end(client, Outcome::Lost);
            self.session_over(gateway, session, Code::ClientDidNotArrive.facts().name);
        } else if let Some(host) = self.gateways[gateway].live.remove(&session) {
            self.end(client, Outcome::Lost);
            self.session_over(gateway, session, "client_closed");
            self.soon(Event::HostLegEnds { host, session });
            if self.settings.breakdowns > 0 && self.random.chance(50) {
                self.come_back(client);
            }
        }
    }

    pub(super) fn host_arrives(&mut self, host: usize, session: SessionId) {
        let Some(Seat { gateway, .. }) = self.hosts[host].seats.get(&session).copied() else {
            return;
        };
        if self.gateways[gateway].waiting.remove(&session) {
            self.gateways[gateway].live.insert(session, host);
            self.end_session(session, Outcome::Live);
            self.gateway_says(gateway, GatewayToBroker::SessionStarted { session });
            self.host_says(host, AgentToBroker::SessionStarted { session });
            if self.settings.breakdowns > 0 {
                let at = self.now + self.random.between(10, HORIZON_MS);
                let client = self.by_session[&session];
                self.at(at, Event::ClientLeaves { client });
            }
        } else {
            self.hosts[host].seats.remove(&session);
            let refusal = Refusal::new(Code::SessionUnknown);
            self.host_says(host, AgentToBroker::OrderFailed { session, refusal });
        }
    }

    pub(super) fn host_hears(&mut self, host: usize, message: BrokerToAgent) {
        match message {
            BrokerToAgent::Order(order) => {
                let session = order.session;
                let Host { seats, capacity, .. } = &mut self.hosts[host];
                if seats.contains_key(&session) {
                    return; // its first order is being answered
                }
                let refused = if seats.len() >= *capacity {
                    Some(Code::HostBusy)
                } else {
                    let fails = self.settings.breakdowns > 0 && self.random.chance(5);
                    fails.then_some(Code::HostRefused)
                };
                if let Some(code) = refused {
                    let refusal = code.into();
                    return self.host_says(host, AgentToBroker::OrderRefused { session, refusal });
                }
                let gateway = self.gateways.iter().position(|g| g.id == order.gateway).unwrap();
                let seat = Seat { accepted: false, gateway };
                self.hosts[host].seats.insert(session, seat);
                let slow = self.random.chance(self.settings.late_percent);
                let answers = self.now + self.random.between(1, if slow { 3_000 } else { 30 });
                self.at(answers, Event::TargetAnswers { host, session });
            }
            BrokerToAgent::Cancel { session, .. } => {
                let Some(seat) = self.hosts[host].seats.remove(&session) else { return };
                let (bytes_up, bytes_down) = (0, 0);
                self.host_says(host, AgentToBroker::SessionEnded { session, bytes_up, bytes_down });
                self.soon(Event::GatewayLegEnds { gateway: seat.gateway, session });
            }
            BrokerToAgent::Welcome { .. } => {}
        }
    }

    pub(super) fn gateway_hears(&mut self, gateway: usize, message: BrokerToGateway) {
        match message {
            BrokerToGateway::Placed { request, placement } => {
                let Some(client) = self.gateways[gateway].asked.remove(&request) else { return };
                self.check_told(client, &placement.host);
                // Most come at once, some late, some never.
                let delay = match self.random.below(20) {
                    0 if self.settings.breakdowns > 0 => return self.end(client, Outcome::Lost),
                    1 if self.settings.breakdowns > 0 => self.random.between(0, 40_000),
                    _ => self.random.between(0, 100),
                };
                self.at(self.now + delay, Event::ClientArrives { client });
            }
            BrokerToGateway::PlaceRefused { request, refusal } => {
                if let Some(client) = self.gateways[gateway].asked.remove(&request) {
                    self.end(client, Outcome::Refused(refusal.code));
                }
            }
            BrokerToGateway::OrchestrateRefused { request, refusal } => {
                if let Some(session) = self.gateways[gateway].ordered.remove(&request)
                    && self.gateways[gateway].waiting.remove(&session)
                {
                    self.end_session(session, Outcome::Refused(refusal.code));
                }
            }
            BrokerToGateway::Cancel { session, refusal } => {
                if self.gateways[gateway].waiting.remove(&session) {
                    self.end_session(session, Outcome::Refused(refusal.code));
                } else if let Some(host) = self.gateways[gateway].live.remove(&session) {
                    self.end_session(session, Outcome::Lost);
                    self.session_over(gateway, session, "disconnected");
                    self.soon(Event::HostLegEnds { host, session });
                }
            }
            BrokerToGateway::Orchestrated { request } => {
                self.gateways[gateway].ordered.remove(&request);
            }
            BrokerToGateway::Gateways { .. }
            | BrokerToGateway::Revoked { .. }
            | BrokerToGateway::TokenChecked { .. }
            | BrokerToGateway::Welcome { .. } => {}
        }
    }

    /// In a personal pool a user is told of one host, for ever, and nobody else
    /// of it.
    fn check_told(&mut self, client: usize, host: &HostId) {
        if !matches!(self.settings.kind, PoolKind::Personal(_)) {
            return;
        }
        let user = &self.clients[client].user;
        let first = self.told.entry(user.clone()).or_insert_with(|| host.clone());
        assert_eq!(first, host, "{user} was told of two hosts");
        let users = self.told.values().filter(|told| *told == host).count();
        assert_eq!(users, 1, "two users were told of {host}: {:?}", self.told);
        let key = AssignmentKey { pool: "pool".parse().unwrap(), user: user.clone() };
        assert_eq!(self.stored.get(&key), Some(host), "told before it was stored");
    }

    pub(super) fn target_answers(&mut self, host: usize, session: SessionId) {
        if let Some(seat) = self.hosts[host].seats.get_mut(&session) {
            seat.accepted = true;
            self.host_says(host, AgentToBroker::OrderAccepted { session });
            self.soon(Event::HostArrives { host, session });
        }
    }

    pub(super) fn waited_in_vain(&mut self, gateway: usize, session: SessionId) {
        if self.gateways[gateway].waiting.remove(&session) {
            self.end_session(session, Outcome::Refused(Code::HostDidNotArrive));
            self.session_over(gateway, session, Code::HostDidNotArrive.facts().name);
        }
    }

    pub(super) fn host_leg_ends(&mut self, host: usize, session: SessionId) {
        if self.hosts[host].seats.remove(&session).is_some() {
            let (bytes_up, bytes_down) = (0, 0);
            self.host_says(host, AgentToBroker::SessionEnded { session, bytes_up, bytes_down });
        }
    }

    pub(super) fn gateway_leg_ends(&mut self, gateway: usize, session: SessionId) {
        if self.gateways[gateway].live.remove(&session).is_some() {
            self.end_session(session, Outcome::Lost);
            self.session_over(gateway, session, "host_closed");
        }
    }

    /// The last word counts: who was live may be lost.
    pub(super) fn end(&mut self, client: usize, outcome: Outcome) {
        self.clients[client].outcome = Some(outcome);
    }

    pub(super) fn end_session(&mut self, session: SessionId, outcome: Outcome) {
        self.end(self.by_session[&session], outcome);
    }
}
