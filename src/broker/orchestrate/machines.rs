//! Hosts and gateways come, go and report; gateways are told about each other.

use tokio::time::Instant;

use super::{AgentChannel, ChannelNumber, Core, GatewayChannel, TABLE_DEBOUNCE};
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, HostId, PoolId, SessionId};
use crate::core::placement::Phase;
use crate::wire::admin::{BrokerSnapshot, GatewayView, HostView};
use crate::wire::channel::{
    BrokerToAgent, BrokerToGateway, GatewayEntry, GatewayToBroker, VERSION,
};
use crate::wire::enroll::MachineRole;

/// The gateways' reasons are names from a closed list.
const CLOSE_REASON_CHARS_MAX: usize = 64;

impl Core {
    pub(super) fn agent_connected(
        &mut self,
        host: HostId,
        pool: &PoolId,
        agent: AgentChannel,
        capacity: u32,
        live: &[SessionId],
    ) {
        let draining = self.drained.contains(&host);
        agent.outbox.post(BrokerToAgent::Welcome {
            version: VERSION,
            host: host.clone(),
            draining,
        });
        if let Some(older) = self.agents.insert(host.clone(), agent) {
            older.outbox.close(Refusal::new(Code::ChannelReplaced));
        }
        let live = &self.without_revoked(live, |core, session| {
            core.cancel_at_agent(&host, session, Code::SessionRevoked);
        });
        let freed = self.table.host_connected(&host, pool, capacity, live, self.now());
        self.identify(live);
        self.table.set_draining(&host, draining);
        tracing::info!(%host, %pool, live = live.len(), draining, "A session host is here");
        self.settle(freed);
    }

    pub(super) fn agent_lost(&mut self, host: &HostId, channel: ChannelNumber) {
        if self.agents.get(host).is_none_or(|agent| agent.channel != channel) {
            return; // a newer channel has replaced it
        }
        self.agents.remove(host);
        let freed = self.table.host_disconnected(host, self.now());
        tracing::warn!(%host, orders_lost = freed.len(), "A session host's channel is lost");
        self.settle(freed);
    }

    pub(super) fn gateway_connected(
        &mut self,
        gateway: GatewayId,
        state: GatewayChannel,
        live: &[SessionId],
    ) {
        state.outbox.post(BrokerToGateway::Welcome {
            version: VERSION,
            gateway: gateway.clone(),
            ticket_keys: self.keys.published.clone(),
        });
        tracing::info!(%gateway, url = %state.url, live = live.len(), "A gateway is here");
        if let Some(older) = self.gateways.insert(gateway.clone(), state) {
            older.outbox.close(Refusal::new(Code::ChannelReplaced));
        }
        self.send_revoked(&gateway, live);
        let live = &self.without_revoked(live, |_, _| {});
        // Requests of the older channel have nobody left who waits for them.
        self.orders.retain(|_, order| order.gateway != gateway);
        let freed = self.table.gateway_connected(&gateway, live, self.now());
        self.identify(live);
        self.settle(freed);
        self.broadcast_gateways_soon();
    }

    pub(super) fn gateway_lost(&mut self, gateway: &GatewayId, channel: ChannelNumber) {
        if self.gateways.get(gateway).is_none_or(|known| known.channel != channel) {
            return;
        }
        self.gateways.remove(gateway);
        self.table.gateway_disconnected(gateway, self.now());
        tracing::warn!(%gateway, "A gateway's channel is lost; its sessions stay counted");
        self.broadcast_gateways_soon();
    }

    pub(super) fn on_gateway_message(&mut self, gateway: &GatewayId, message: GatewayToBroker) {
        match message {
            // Judged on the channel's own task; see channels.rs.
            GatewayToBroker::Hello { .. }
            | GatewayToBroker::AlsoLive { .. }
            | GatewayToBroker::Place(_) => {}
            GatewayToBroker::Load { connections, waiting, draining } => {
                let on_the_way = self.on_the_way_to(gateway);
                let Some(known) = self.gateways.get_mut(gateway) else { return };
                let changed = known.draining != draining;
                known.connections = connections;
                known.waiting = waiting;
                known.draining = draining;
                known.in_flight = on_the_way;
                known.reported_at = Instant::now();
                if changed {
                    self.broadcast_gateways_soon();
                }
            }
            GatewayToBroker::Orchestrate { request, session } => {
                self.orchestrate(gateway, request, session);
            }
            GatewayToBroker::SessionStarted { session } => self.session_started(gateway, session),
            GatewayToBroker::SessionEnded {
                session, close_reason, bytes_up, bytes_down, ..
            } => {
                let holds_it = self
                    .table
                    .slot(session)
                    .is_some_and(|slot| slot.gateway.as_ref().is_none_or(|g| g == gateway));
                let why: String = close_reason.chars().take(CLOSE_REASON_CHARS_MAX).collect();
                if holds_it {
                    self.session_ended(session, why, bytes_up, bytes_down);
                } else {
                    self.records.settled(session, gateway, &why, (bytes_up, bytes_down));
                }
            }
        }
    }

    /// Sessions that were placed at a gateway and that it does not relay yet:
    /// its own count of connections lacks them.
    fn on_the_way_to(&self, gateway: &GatewayId) -> u32 {
        let slots = self.table.slots();
        let on_the_way = slots.filter(|(_, slot)| {
            slot.phase != Phase::Live && slot.gateway.as_ref() == Some(gateway)
        });
        u32::try_from(on_the_way.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn drain(&mut self, host: HostId, draining: bool) {
        tracing::info!(%host, draining, "Changed whether a host takes new users");
        self.table.set_draining(&host, draining);
        if draining {
            self.drained.insert(host);
        } else {
            self.drained.remove(&host);
        }
    }

    /// The machine is gone at once, whether it hears of it or not.
    pub(super) fn expel(&mut self, role: MachineRole, name: &str, why: Refusal) {
        match role {
            MachineRole::Agent => {
                let Ok(host) = name.parse() else { return };
                let Some(agent) = self.agents.get(&host) else { return };
                agent.outbox.close(why);
                self.agent_lost(&host, agent.channel);
            }
            MachineRole::Gateway => {
                let Ok(gateway) = name.parse() else { return };
                let Some(known) = self.gateways.get(&gateway) else { return };
                known.outbox.close(why);
                self.gateway_lost(&gateway, known.channel);
            }
        }
    }

    pub(super) fn broadcast_gateways_soon(&mut self) {
        self.table_due = self.table_due.min(Instant::now() + TABLE_DEBOUNCE);
    }

    pub(super) fn broadcast_gateways(&mut self) {
        let interval = std::time::Duration::from_millis(self.limits.gateway_table_interval_ms);
        self.table_due = Instant::now() + interval;
        let gateways: Vec<_> = self
            .gateways
            .iter()
            .map(|(gateway, known)| GatewayEntry {
                gateway: gateway.clone(),
                url: known.url.clone(),
                connections: known.connections,
                in_flight: known.in_flight,
                capacity: known.capacity,
                draining: known.draining,
                age_ms: age_ms(known),
            })
            .collect();
        let ticket_keys = &self.keys.published;
        for known in self.gateways.values() {
            known.outbox.post(BrokerToGateway::Gateways {
                gateways: gateways.clone(),
                ticket_keys: ticket_keys.clone(),
            });
        }
    }

    pub(super) fn snapshot(&self) -> BrokerSnapshot {
        let now = self.now();
        let hosts = self.table.hosts().map(|(name, host)| HostView {
            host: name.clone(),
            pool: host.pool.clone(),
            connected: host.connected,
            draining: host.draining || host.stopping,
            paused: host.paused_until > now,
            sessions: host.sessions,
            sessions_max: self.table.limit_of(host),
        });
        let gateways = self.gateways.iter().map(|(name, known)| GatewayView {
            gateway: name.clone(),
            url: known.url.clone(),
            connections: known.connections,
            waiting: known.waiting,
            in_flight: known.in_flight,
            capacity: known.capacity,
            draining: known.draining,
            age_ms: age_ms(known),
        });
        let mut sessions: Vec<_> = self
            .table
            .slots()
            .filter_map(|(session, slot)| self.records.view(*session, Some(slot)))
            .map(|(view, _)| view)
            .collect();
        sessions.sort_by_key(|view| (view.placed_at, view.session));
        BrokerSnapshot { hosts: hosts.collect(), gateways: gateways.collect(), sessions }
    }
}

fn age_ms(gateway: &GatewayChannel) -> u64 {
    u64::try_from(gateway.reported_at.elapsed().as_millis()).unwrap_or(u64::MAX)
}
