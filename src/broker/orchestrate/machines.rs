//! Hosts and gateways come, go and report; gateways are told about each other.

use super::{AgentChannel, ChannelNumber, Core, GatewayChannel, HostHello, TABLE_DEBOUNCE_MS};
use crate::core::codes::{Code, Refusal};
use crate::core::health::{CHECKS_MAX, Fitness, HostCheck};
use crate::core::ids::{GatewayId, HostId, Label, PoolId, SessionId};
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
        hello: HostHello,
    ) {
        let HostHello { capacity, live, labels, checks } = hello;
        let (kept, revoked) = self.part_revoked(&live);
        let freed = self.table.host_connected(&host, pool, capacity, &kept, self.now_ms);
        self.identify(&kept);
        self.table.set_labels(&host, labels);
        let draining = self.table.host(&host).is_some_and(|known| known.draining);
        agent.outbox.post(BrokerToAgent::Welcome {
            version: VERSION,
            host: host.clone(),
            draining,
        });
        if let Some(older) = self.agents.insert(host.clone(), agent) {
            older.outbox.close(Refusal::new(Code::ChannelReplaced));
        }
        for session in revoked {
            self.cancel_at_agent(&host, session, Code::SessionRevoked);
        }
        tracing::info!(%host, %pool, live = kept.len(), draining, "A session host is here");
        self.host_checked(&host, checks);
        self.settle(freed);
    }

    /// What a host's agent found out about it.
    pub(super) fn host_checked(&mut self, host: &HostId, checks: Vec<HostCheck>) {
        let Some(agent) = self.agents.get_mut(host) else { return };
        let checks: Vec<_> = checks.into_iter().take(CHECKS_MAX).map(HostCheck::curbed).collect();
        let (before, now) = (Fitness::of(&agent.checks), Fitness::of(&checks));
        if before != now {
            let failing = checks.iter().filter(|check| !check.ok);
            let failing: Vec<_> =
                failing.map(|check| format!("{}: {}", check.name, check.detail)).collect();
            tracing::info!(%host, fitness = ?now, ?failing, "A session host's health changed");
        }
        agent.checks = checks;
        self.table.set_fitness(host, now);
    }

    pub(super) fn agent_lost(&mut self, host: &HostId, channel: ChannelNumber) {
        if self.agents.get(host).is_none_or(|agent| agent.channel != channel) {
            return; // a newer channel has replaced it
        }
        self.agents.remove(host);
        let freed = self.table.host_disconnected(host, self.now_ms);
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
            checks_tokens: true,
            compares_users: true,
        });
        tracing::info!(%gateway, url = %state.url, live = live.len(), "A gateway is here");
        if let Some(older) = self.gateways.insert(gateway.clone(), state) {
            older.outbox.close(Refusal::new(Code::ChannelReplaced));
        }
        self.send_revoked(&gateway, live);
        let (kept, _) = self.part_revoked(live);
        // Requests of the older channel have nobody left who waits for them.
        self.orders.retain(|_, order| order.gateway != gateway);
        let freed = self.table.gateway_connected(&gateway, &kept, self.now_ms);
        self.identify(&kept);
        self.settle(freed);
        self.broadcast_gateways_soon();
    }

    pub(super) fn gateway_lost(&mut self, gateway: &GatewayId, channel: ChannelNumber) {
        if self.gateways.get(gateway).is_none_or(|known| known.channel != channel) {
            return;
        }
        self.gateways.remove(gateway);
        self.table.gateway_disconnected(gateway, self.now_ms);
        tracing::warn!(%gateway, "A gateway's channel is lost; its sessions stay counted");
        self.broadcast_gateways_soon();
    }

    pub(super) fn on_gateway_message(&mut self, gateway: &GatewayId, message: GatewayToBroker) {
        match message {
            // Judged on the channel's own task; see channels.rs.
            GatewayToBroker::Hello { .. }
            | GatewayToBroker::AlsoLive { .. }
            | GatewayToBroker::CheckToken { .. }
            | GatewayToBroker::Place(_) => {}
            GatewayToBroker::Load { connections, waiting, draining } => {
                let on_the_way = self.on_the_way_to(gateway);
                let Some(known) = self.gateways.get_mut(gateway) else { return };
                let changed = known.draining != draining;
                known.connections = connections;
                known.waiting = waiting;
                known.draining = draining;
                known.in_flight = on_the_way;
                known.reported_at_ms = self.now_ms;
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
    }

    pub(super) fn drain_label(&mut self, label: &Label, draining: bool) {
        tracing::info!(%label, draining, "Changed whether hosts with a label take new users");
        self.table.set_label_draining(label, draining);
    }

    /// The machine is gone at once, whether it hears of it or not.
    pub(super) fn expel(&mut self, role: MachineRole, name: &str, for_good: bool, why: Refusal) {
        match role {
            MachineRole::Agent => {
                let Ok(host) = name.parse() else { return };
                if for_good {
                    self.table.host_revoked(&host);
                }
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
        self.table_due_ms = self.table_due_ms.min(self.now_ms + TABLE_DEBOUNCE_MS);
    }

    pub(super) fn broadcast_gateways(&mut self) {
        self.table_due_ms = self.now_ms + self.limits.gateway_table_interval_ms;
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
                age_ms: self.age_ms(known),
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
        let hosts = self.table.hosts().map(|(name, host)| HostView {
            host: name.clone(),
            pool: host.pool.clone(),
            connected: host.connected,
            draining: host.draining || host.stopping,
            paused: host.paused_until > self.now_ms,
            sessions: host.sessions,
            sessions_max: self.table.limit_of(host),
            labels: host.labels.clone(),
            checks: self.agents.get(name).map(|agent| agent.checks.clone()).unwrap_or_default(),
        });
        let gateways = self.gateways.iter().map(|(name, known)| GatewayView {
            gateway: name.clone(),
            url: known.url.clone(),
            connections: known.connections,
            waiting: known.waiting,
            in_flight: known.in_flight,
            capacity: known.capacity,
            draining: known.draining,
            age_ms: self.age_ms(known),
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

    fn age_ms(&self, gateway: &GatewayChannel) -> u64 {
        self.now_ms.saturating_sub(gateway.reported_at_ms)
    }
}
