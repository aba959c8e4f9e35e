//! The broker, the channels to it, its store, and how all of them break down
//! and return.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::Ed25519KeyPair;
use tokio::sync::oneshot;

use super::parties::{Link, Outcome};
use super::world::{Event, World};
use crate::broker::audit::AuditLog;
use crate::broker::orchestrate::errands::Errand;
use crate::broker::orchestrate::{Command, Core, HostHello, Start};
use crate::broker::ticket_keys::Keys;
use crate::channel::pump;
use crate::config::broker::{BrokerConfig, Kind};
use crate::core::health::HostCheck;
use crate::core::ids::HostId;
use crate::core::placement::{AssignmentKey, PoolKind};
use crate::core::tickets::TicketSigner;
use crate::observe::timeline::Teller;
use crate::wire::channel::{AgentToBroker, BrokerToGateway};

/// More than a machine is ever sent between two events.
const QUEUE: usize = 4_096;

impl World {
    pub(super) fn start_broker(&mut self) {
        self.run_number += 1;
        let hosts = self.hosts.iter().map(|host| (host.id.clone(), "pool".parse().unwrap()));
        let start = Start {
            keys: keys(),
            audit: AuditLog::of_nobody(),
            placed_before: Vec::new(),
            revoked: Vec::new(),
            teller: Teller::new("broker", None),
            hosts: hosts.collect(),
            drained: Vec::new(),
            drained_labels: Vec::new(),
            assignments: self.stored.clone().into_iter().collect(),
        };
        let mut core = Core::new(&self.config(), start);
        core.now_ms = self.now;
        self.core = Some(core);
    }

    fn config(&self) -> BrokerConfig {
        let limits = "order_answer_timeout_ms = 1000\norphan_grace_ms = 30000";
        let mut config = crate::broker::testing::config(Path::new("nowhere"), "", limits);
        let pool = &mut config.pools[0];
        pool.sessions_per_host_max = self.settings.places;
        match self.settings.kind {
            PoolKind::Pooled(fill_order) => pool.placement = Some(fill_order),
            PoolKind::Personal(rule) => {
                (pool.kind, pool.assignment) = (Kind::Personal, Some(rule));
            }
        }
        config
    }

    pub(super) fn command(&mut self, command: Command) {
        if let Some(core) = &mut self.core {
            core.now_ms = self.now;
            core.handle(command);
        }
    }

    /// The broker looks at its clock, and the network takes what it has said.
    pub(super) fn broker_turns(&mut self) {
        let Some(core) = &mut self.core else { return };
        core.now_ms = self.now;
        core.on_tick();
        if let Err(problem) = core.table.check_invariants() {
            panic!("at {}: {problem}", self.now);
        }
        for errand in std::mem::take(&mut core.errands) {
            let Errand::StoreAssignment { key, host, undo } = errand else {
                panic!("nothing here can be started: {errand:?}");
            };
            self.soon(Event::Stored { run: self.run_number, key, host, undo });
        }
        for host in 0..self.hosts.len() {
            while let Some((channel, message)) = self.hosts[host].link.as_mut().and_then(Link::next)
            {
                self.send(Event::HostHears { host, channel, message });
            }
        }
        for gateway in 0..self.gateways.len() {
            while let Some((channel, message)) =
                self.gateways[gateway].link.as_mut().and_then(Link::next)
            {
                // Of no consequence here, and there would be no end of them.
                if !matches!(message, BrokerToGateway::Gateways { .. }) {
                    self.send(Event::GatewayHears { gateway, channel, message });
                }
            }
        }
    }

    /// The database: it may fail, and a broker may die before it hears of it.
    pub(super) fn store(&mut self, run: u64, key: AssignmentKey, host: HostId, undo: bool) {
        if self.core.is_none() || run != self.run_number {
            return; // it died with the broker that asked for it
        }
        let fails = self.settings.breakdowns > 0 && self.random.chance(10);
        let outcome = if fails {
            Err("the disk is full".to_owned())
        } else {
            if undo {
                self.stored.remove(&key);
            } else {
                let taken = self.stored.values().any(|known| *known == host);
                let before = self.stored.insert(key.clone(), host);
                assert!(!taken && before.is_none(), "the database would have refused {key:?}");
            }
            Ok(())
        };
        self.soon(Event::StoreSays { run, key, outcome });
    }

    pub(super) fn everybody_returns(&mut self) {
        for host in 0..self.hosts.len() {
            self.soon(Event::HostReturns(host));
        }
        for gateway in 0..self.gateways.len() {
            self.soon(Event::GatewayReturns(gateway));
        }
    }

    pub(super) fn host_returns(&mut self, host: usize) {
        if self.core.is_none() {
            return; // it will be called when there is a broker
        }
        self.channels += 1;
        let channel = self.channels;
        let (outbox, queue) = pump::outbox(QUEUE);
        let live = self.hosts[host].live();
        self.hosts[host].link = Some(Link { channel, queue });
        let name = self.hosts[host].id.clone();
        let hello = HostHello { live, ..HostHello::default() };
        let pool = "pool".parse().unwrap();
        self.command(Command::AgentConnected { host: name, pool, channel, outbox, hello });
    }

    pub(super) fn gateway_returns(&mut self, gateway: usize) {
        if self.core.is_none() {
            return;
        }
        self.channels += 1;
        let channel = self.channels;
        let (outbox, queue) = pump::outbox(QUEUE);
        let live = self.gateways[gateway].live.keys().copied().collect();
        self.gateways[gateway].link = Some(Link { channel, queue });
        let name = self.gateways[gateway].id.clone();
        self.command(Command::GatewayConnected {
            gateway: name,
            channel,
            outbox,
            url: "https://gw.example:443".into(),
            capacity: 10_000,
            live,
        });
    }

    pub(super) fn break_down(&mut self) {
        let returns = self.now + self.random.spread(50, 50_000) as u64;
        let host = self.random.below(self.hosts.len());
        let gateway = self.random.below(self.gateways.len());
        match self.random.below(8) {
            0 => self.broker_dies(returns),
            1 => self.host_is_cut_off(host, returns),
            2 => {
                // Its process ends, and all its sessions with it.
                for (session, seat) in std::mem::take(&mut self.hosts[host].seats) {
                    self.soon(Event::GatewayLegEnds { gateway: seat.gateway, session });
                }
                self.host_is_cut_off(host, returns);
            }
            3 => self.gateway_is_cut_off(gateway, returns),
            4 => {
                for (session, host) in std::mem::take(&mut self.gateways[gateway].live) {
                    self.end_session(session, Outcome::Lost);
                    self.soon(Event::HostLegEnds { host, session });
                }
                for session in std::mem::take(&mut self.gateways[gateway].waiting) {
                    self.end_session(session, Outcome::Lost);
                }
                self.gateway_is_cut_off(gateway, returns);
            }
            5 => {
                let (host, draining) = (self.hosts[host].id.clone(), self.random.chance(60));
                self.command(Command::Drain { host, draining, done: oneshot::channel().0 });
            }
            6 => {
                let fatal = self.random.chance(50);
                let ok = self.random.chance(30);
                let check = HostCheck { name: "target".into(), fatal, ok, detail: String::new() };
                self.host_says(host, AgentToBroker::Health { checks: vec![check] });
            }
            _ => self.host_says(host, AgentToBroker::Draining),
        }
    }

    fn broker_dies(&mut self, returns: u64) {
        self.core = None;
        for host in &mut self.hosts {
            host.link = None;
        }
        for gateway in 0..self.gateways.len() {
            self.gateways[gateway].link = None;
            self.answers_are_lost(gateway);
        }
        self.at(returns, Event::BrokerReturns);
    }

    fn host_is_cut_off(&mut self, host: usize, returns: u64) {
        if let Some(Link { channel, .. }) = self.hosts[host].link.take() {
            let noticed = self.now + self.random.between(1, 10_000);
            self.at(noticed, Event::HostMissed { host, channel });
        }
        self.at(returns, Event::HostReturns(host));
    }

    fn gateway_is_cut_off(&mut self, gateway: usize, returns: u64) {
        if let Some(Link { channel, .. }) = self.gateways[gateway].link.take() {
            let noticed = self.now + self.random.between(1, 10_000);
            self.at(noticed, Event::GatewayMissed { gateway, channel });
        }
        self.answers_are_lost(gateway);
        self.at(returns, Event::GatewayReturns(gateway));
    }

    /// Whoever waits at a gateway for the broker's answer is told so.
    fn answers_are_lost(&mut self, gateway: usize) {
        for (_, client) in std::mem::take(&mut self.gateways[gateway].asked) {
            self.end(client, Outcome::Lost);
        }
        for (_, session) in std::mem::take(&mut self.gateways[gateway].ordered) {
            if self.gateways[gateway].waiting.remove(&session) {
                self.end_session(session, Outcome::Lost);
            }
        }
    }
}

fn keys() -> Keys {
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let random = aws_lc_rs::rand::SystemRandom::new();
        Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref().to_vec()
    });
    let signer = Arc::new(TicketSigner::from_pkcs8(key).unwrap());
    let published = vec![signer.published()];
    Keys { signer, published }
}
