//! The life of one session, from its place to its end (steps 8 to 11).

use tokio::sync::oneshot;

use super::records::HOST_ENDED;
use super::{ChannelNumber, Core, Judged, PendingOrder};
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, HostId, SessionId};
use crate::core::placement::{Freed, Phase};
use crate::core::secret::Secret;
use crate::core::tickets::{Claims, LIFETIME_MS_MAX, Role};
use crate::wire::channel::{
    AgentToBroker, BrokerToAgent, BrokerToGateway, CERTIFICATE_LENGTH_MAX, Order, Placement,
    Settled,
};

/// Whether a session that this gateway relays is this user's.
#[derive(Debug)]
pub struct Ownership {
    pub gateway: GatewayId,
    pub session: SessionId,
    pub user: String,
    pub answer: oneshot::Sender<Result<(), Code>>,
}

impl Core {
    /// Steps 7 and 9, first half: a place on a host and the client's ticket. A
    /// user of a personal pool may have to wait for a host of their own.
    pub(super) fn place(&mut self, asked_by: &GatewayId, channel: ChannelNumber, judged: Judged) {
        let Some(judged) = self.see_to_own_host(asked_by, channel, judged) else { return };
        let (request, session) = (judged.request, judged.session);
        let (user, resource) = (judged.user.clone(), judged.resource.clone());
        match self.reserve(judged) {
            Ok(placement) => {
                tracing::info!(step = 9, %session, host = %placement.host, %asked_by, "Reserved a place");
                self.teller.tell(9, Some(session), format!("reserved {}", placement.host));
                self.tell_gateway(asked_by, BrokerToGateway::Placed { request, placement });
            }
            Err(refusal) => {
                self.records.refused(session, &user, &resource, refusal.code);
                self.refuse_place(asked_by, request, session, refusal);
            }
        }
    }

    pub(super) fn refuse_place(
        &self,
        asked_by: &GatewayId,
        request: u64,
        session: SessionId,
        refusal: Refusal,
    ) {
        tracing::warn!(step = 9, %session, %refusal, "No place");
        self.tell_gateway(asked_by, BrokerToGateway::PlaceRefused { request, refusal });
    }

    fn reserve(&mut self, mut judged: Judged) -> Result<Placement, Refusal> {
        self.may_place(&judged)?;
        let gateway_url = self.settle_gateway(&mut judged)?;
        let wish = self.wish_of(&judged);
        self.take_over(&wish);
        let replaced = self.table.make_way(&judged.user)?;
        self.settle(replaced.into_iter().collect());
        let host = self
            .table
            .reserve(&wish, self.now_ms)
            .map_err(|code| self.without_a_host(&wish, code))?;
        let lifetime = self.limits.reservation_ms;
        let signed = self.sign(judged.session, &judged.gateway, &host, Role::Client, lifetime);
        let (client_ticket, expires_at) = match signed {
            Ok(signed) => signed,
            Err(code) => {
                self.table.release(judged.session);
                return Err(code.into());
            }
        };
        if let Some(gateway) = self.gateways.get_mut(&judged.gateway) {
            gateway.in_flight = gateway.in_flight.saturating_add(1);
        }
        self.broadcast_gateways_soon();
        let session = judged.session;
        let settled =
            Some(Settled { gateway: judged.gateway.clone(), explain: judged.explain.clone() });
        self.records.placed(judged, host.clone());
        let server_certificate = self.agents.get(&host).and_then(|agent| agent.certificate.clone());
        Ok(Placement {
            session,
            host,
            gateway_url,
            client_ticket,
            expires_at,
            settled,
            server_certificate,
        })
    }

    fn sign(
        &self,
        session: SessionId,
        gateway: &GatewayId,
        host: &HostId,
        role: Role,
        lifetime_ms: u64,
    ) -> Result<(Secret, UnixMillis), Code> {
        let issued_at = UnixMillis::now();
        let expires_at = issued_at.plus_ms(lifetime_ms.min(LIFETIME_MS_MAX));
        let claims = Claims {
            id: SessionId(super::super::random_bytes()?),
            session,
            gateway: gateway.clone(),
            host: host.clone(),
            role,
            issued_at,
            expires_at,
        };
        Ok((self.keys.signer.sign(&claims).into(), expires_at))
    }

    /// Nobody's is a session of which it is not known whose it is.
    pub(super) fn tell_whether_it_is_of(&self, ownership: Ownership) {
        let Ownership { gateway, session, user, answer } = ownership;
        let slot = self.table.slot(session);
        let slot = slot.filter(|slot| slot.gateway.as_ref() == Some(&gateway));
        let verdict = match slot {
            None => Err(Code::SessionUnknown),
            Some(slot) if slot.user.as_ref() == Some(&user) => Ok(()),
            Some(_) => Err(Code::TokenOfOtherUser),
        };
        let _nobody_waits = answer.send(verdict);
    }

    /// Step 9: the client is at its gateway, so the host is ordered there.
    pub(super) fn orchestrate(&mut self, gateway: &GatewayId, request: u64, session: SessionId) {
        if let Err(refusal) = self.order(gateway, request, session) {
            tracing::warn!(step = 9, %session, %gateway, %refusal, "Did not order a host");
            self.tell_gateway(gateway, BrokerToGateway::OrchestrateRefused { request, refusal });
        }
    }

    fn order(
        &mut self,
        gateway: &GatewayId,
        request: u64,
        session: SessionId,
    ) -> Result<(), Refusal> {
        let host = self.table.begin_order(session, gateway, self.now_ms).inspect_err(|code| {
            if matches!(code, Code::HostGone | Code::HostDraining) {
                self.records.ended(session, code.facts().name, None);
            }
        })?;
        let gateway_url =
            self.gateways.get(gateway).map(|known| known.url.clone()).unwrap_or_default();
        let lifetime = self.limits.start_timeout_ms;
        let ordered =
            self.sign(session, gateway, &host, Role::Host, lifetime).and_then(|(ticket, _)| {
                let order = Order {
                    session,
                    gateway: gateway.clone(),
                    gateway_url,
                    ticket,
                    answer_within_ms: self.limits.order_answer_timeout_ms,
                };
                let posted = self.tell_agent(&host, BrokerToAgent::Order(order));
                if posted { Ok(()) } else { Err(Code::HostGone) }
            });
        if let Err(code) = ordered {
            self.table.release(session);
            self.records.ended(session, code.facts().name, None);
            return Err(code.into());
        }
        self.orders.insert(session, PendingOrder { gateway: gateway.clone(), request });
        tracing::info!(step = 9, %session, %host, %gateway, "Ordered the host");
        self.teller.tell(9, Some(session), format!("ordered {host}"));
        Ok(())
    }

    pub(super) fn on_agent_message(&mut self, host: &HostId, message: AgentToBroker) {
        match message {
            AgentToBroker::Hello { .. } => {}
            AgentToBroker::Health { checks } => self.host_checked(host, checks),
            AgentToBroker::RdpCertificate { der } => {
                if let Some(agent) = self.agents.get_mut(host) {
                    agent.certificate = (der.len() <= CERTIFICATE_LENGTH_MAX).then_some(der);
                }
            }
            AgentToBroker::OrderAccepted { session } => {
                if self.table.order_accepted(session, host, self.now_ms) {
                    tracing::info!(step = 9, %session, %host, "The host accepted the order");
                    self.answer_order(session, Ok(()));
                } else {
                    // Too late: somebody else may sit there already.
                    self.cancel_at_agent(host, session, Code::ReservationExpired);
                }
            }
            AgentToBroker::OrderRefused { session, refusal } => {
                let refusal = refusal.curbed();
                if self.is_at(session, host) {
                    tracing::warn!(step = 9, %session, %host, %refusal, "The host refused the order");
                    self.table.host_failed(host, self.now_ms);
                    self.give_up(session, refusal);
                }
            }
            AgentToBroker::OrderFailed { session, refusal } => {
                let refusal = refusal.curbed();
                if self.is_at(session, host) {
                    tracing::warn!(step = 10, %session, %host, %refusal, "The host cannot come");
                    // Otherwise the gateway turned it away, often because the
                    // client has left: no fault of the host's.
                    if refusal.code == Code::HostDialFailed {
                        self.table.host_failed(host, self.now_ms);
                    }
                    self.give_up(session, refusal);
                }
            }
            AgentToBroker::SessionStarted { session } => {
                if self.is_at(session, host) {
                    self.teller.tell(10, Some(session), format!("{host} is at the gateway"));
                } else {
                    self.cancel_at_agent(host, session, Code::SessionUnknown);
                }
            }
            AgentToBroker::Draining => self.host_stopping(host),
            AgentToBroker::SessionEnded { session, bytes_up, bytes_down } => {
                if self.is_at(session, host) {
                    let waiting_gateway = self
                        .table
                        .slot(session)
                        .filter(|slot| slot.phase != Phase::Live)
                        .and_then(|slot| slot.gateway.clone());
                    self.session_ended(session, HOST_ENDED.into(), bytes_up, bytes_down);
                    if let Some(gateway) = waiting_gateway {
                        self.cancel_at_gateway(&gateway, session, Code::HostGone.into());
                    }
                }
            }
        }
    }

    /// The host winds down: places that nobody has come for are still held, and
    /// refused when somebody does.
    fn host_stopping(&mut self, host: &HostId) {
        tracing::info!(%host, "A session host stops; nobody is placed there");
        self.table.host_stopping(host);
    }

    fn is_at(&self, session: SessionId, host: &HostId) -> bool {
        self.table.slot(session).is_some_and(|slot| slot.host.as_ref() == Some(host))
    }

    /// Step 11: the gateway relays. The place is confirmed.
    pub(super) fn session_started(&mut self, gateway: &GatewayId, session: SessionId) {
        if self.table.started(session, gateway) {
            // Its report may have overtaken the host's answer.
            self.answer_order(session, Ok(()));
            self.records.started(session, gateway);
            tracing::info!(step = 11, %session, %gateway, "The session is live");
            self.teller.tell(11, Some(session), format!("live at {gateway}"));
        } else {
            tracing::warn!(step = 11, %session, %gateway, "A session without a place started");
            self.cancel_at_gateway(gateway, session, Code::SessionUnknown.into());
        }
    }

    /// One end says that it is over. The second report finds nothing.
    pub(super) fn session_ended(
        &mut self,
        session: SessionId,
        why: String,
        bytes_up: u64,
        bytes_down: u64,
    ) {
        let Some(slot) = self.table.release(session) else { return };
        self.orders.remove(&session);
        tracing::info!(step = 11, %session, %why, bytes_up, bytes_down, "The session is over");
        self.records.ended(session, &why, Some((bytes_up, bytes_down)));
        let on_the_way = matches!(slot.phase, Phase::Ordered | Phase::Accepted);
        if let Some(host) = slot.host.filter(|_| on_the_way) {
            // The gateway waited for it in vain.
            if why == Code::HostDidNotArrive.facts().name {
                self.table.host_failed(&host, self.now_ms);
            }
            self.cancel_at_agent(&host, session, Code::ClientDidNotArrive);
        }
    }

    /// The host said that it does not come: the place is free, and the gateway
    /// learns why.
    fn give_up(&mut self, session: SessionId, refusal: Refusal) {
        let Some(slot) = self.table.release(session) else { return };
        self.records.ended(session, refusal.code.facts().name, None);
        if self.orders.contains_key(&session) {
            self.answer_order(session, Err(refusal));
        } else if let Some(gateway) = slot.gateway {
            self.cancel_at_gateway(&gateway, session, refusal);
        }
    }

    /// Slots that the table freed by itself: whoever waits is told, at both
    /// ends.
    pub(super) fn settle(&mut self, freed: Vec<Freed>) {
        for Freed { session, slot, code } in freed {
            tracing::warn!(step = code.facts().step, %session, phase = ?slot.phase, %code, "Freed a place");
            self.records.ended(session, code.facts().name, None);
            if slot.phase == Phase::Ordered || slot.phase == Phase::Accepted {
                if let Some(host) = &slot.host {
                    self.cancel_at_agent(host, session, code);
                }
                if self.orders.contains_key(&session) {
                    self.answer_order(session, Err(code.into()));
                } else if let Some(gateway) = &slot.gateway {
                    self.cancel_at_gateway(gateway, session, code.into());
                }
            }
        }
    }

    pub(super) fn answer_order(&mut self, session: SessionId, outcome: Result<(), Refusal>) {
        let Some(PendingOrder { gateway, request }) = self.orders.remove(&session) else { return };
        let answer = match outcome {
            Ok(()) => BrokerToGateway::Orchestrated { request },
            Err(refusal) => BrokerToGateway::OrchestrateRefused { request, refusal },
        };
        self.tell_gateway(&gateway, answer);
    }

    pub(super) fn cancel_at_agent(&self, host: &HostId, session: SessionId, code: Code) {
        self.tell_agent(host, BrokerToAgent::Cancel { session, refusal: code.into() });
    }

    pub(super) fn cancel_at_gateway(
        &self,
        gateway: &GatewayId,
        session: SessionId,
        refusal: Refusal,
    ) {
        self.tell_gateway(gateway, BrokerToGateway::Cancel { session, refusal });
    }
}
