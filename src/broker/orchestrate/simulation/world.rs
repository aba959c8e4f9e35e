//! What happens when: one queue of events in the order of their times.

use std::collections::BTreeMap;
use std::ops::Range;

use super::parties::{Client, Gateway, Host, Outcome};
use crate::broker::orchestrate::errands::Done;
use crate::broker::orchestrate::{ChannelNumber, Command, Core, Judged};
use crate::core::ids::{HostId, SessionId};
use crate::core::placement::{AssignmentKey, PoolKind};
use crate::core::random::Random;
use crate::wire::channel::{AgentToBroker, BrokerToAgent, BrokerToGateway, GatewayToBroker};

/// When clients come, and when things break down.
pub(super) const HORIZON_MS: u64 = 60_000;
/// Whoever returns is back after this.
const RETURN_MS: u64 = 50;
/// A run with more events makes no progress.
const EVENTS_MAX: u64 = 2_000_000;

/// What a world is made of, and how bad it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) kind: PoolKind,
    pub(super) hosts: usize,
    pub(super) gateways: usize,
    /// The pool's limit.
    pub(super) places: u32,
    /// The agents' own limit.
    pub(super) capacity: usize,
    pub(super) clients: usize,
    pub(super) users: usize,
    /// Messages that take seconds.
    pub(super) late_percent: usize,
    pub(super) lost_percent: usize,
    pub(super) repeated_percent: usize,
    pub(super) breakdowns: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    ClientAsks(usize),
    AskedInVain {
        gateway: usize,
        request: u64,
    },
    Placing {
        gateway: usize,
        channel: ChannelNumber,
        judged: Judged,
    },
    HostSays {
        host: usize,
        channel: ChannelNumber,
        message: AgentToBroker,
    },
    GatewaySays {
        gateway: usize,
        channel: ChannelNumber,
        message: GatewayToBroker,
    },
    HostHears {
        host: usize,
        channel: ChannelNumber,
        message: BrokerToAgent,
    },
    GatewayHears {
        gateway: usize,
        channel: ChannelNumber,
        message: BrokerToGateway,
    },
    ClientArrives {
        client: usize,
    },
    ClientLeaves {
        client: usize,
    },
    WaitedInVain {
        gateway: usize,
        session: SessionId,
    },
    TargetAnswers {
        host: usize,
        session: SessionId,
    },
    HostArrives {
        host: usize,
        session: SessionId,
    },
    /// The other end of a leg is gone.
    HostLegEnds {
        host: usize,
        session: SessionId,
    },
    GatewayLegEnds {
        gateway: usize,
        session: SessionId,
    },
    /// The broker notices that a channel is gone.
    HostMissed {
        host: usize,
        channel: ChannelNumber,
    },
    GatewayMissed {
        gateway: usize,
        channel: ChannelNumber,
    },
    HostReturns(usize),
    GatewayReturns(usize),
    BrokerReturns,
    /// The store has done it, and says so.
    Stored {
        run: u64,
        key: AssignmentKey,
        host: HostId,
        undo: bool,
    },
    StoreSays {
        run: u64,
        key: AssignmentKey,
        outcome: Result<(), String>,
    },
    Breakdown,
}

pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) sequence: u64,
    pub(super) queue: BTreeMap<(u64, u64), Event>,
    pub(super) core: Option<Core>,
    /// Counts the broker's starts.
    pub(super) run_number: u64,
    pub(super) channels: ChannelNumber,
    pub(super) hosts: Vec<Host>,
    pub(super) gateways: Vec<Gateway>,
    pub(super) clients: Vec<Client>,
    pub(super) by_session: BTreeMap<SessionId, usize>,
    /// The broker's database.
    pub(super) stored: BTreeMap<AssignmentKey, HostId>,
    /// Which host of a personal pool a user was told of.
    pub(super) told: BTreeMap<String, HostId>,
}

impl World {
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        let hosts = (0..settings.hosts).map(|n| Host {
            id: format!("host-{n}").parse().unwrap(),
            link: None,
            capacity: settings.capacity,
            seats: BTreeMap::new(),
        });
        let gateways = (0..settings.gateways).map(|n| Gateway {
            id: format!("gw-{n}").parse().unwrap(),
            link: None,
            next_request: 0,
            asked: BTreeMap::new(),
            ordered: BTreeMap::new(),
            waiting: Default::default(),
            live: BTreeMap::new(),
        });
        let mut world = Self {
            settings,
            random: Random::new(seed),
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            core: None,
            run_number: 0,
            channels: 0,
            hosts: hosts.collect(),
            gateways: gateways.collect(),
            clients: Vec::new(),
            by_session: BTreeMap::new(),
            stored: BTreeMap::new(),
            told: BTreeMap::new(),
        };
        world.start_broker();
        world.everybody_returns();
        world.fresh_clients(settings.clients);
        for _ in 0..settings.breakdowns {
            let at = world.random.between(0, HORIZON_MS);
            world.at(at, Event::Breakdown);
        }
        world
    }

    /// More clients, who all come soon.
    pub(super) fn fresh_clients(&mut self, count: usize) -> Range<usize> {
        let first = self.clients.len();
        // All at once where nothing goes wrong; else while it does.
        let within = if self.settings.breakdowns == 0 { 50 } else { HORIZON_MS };
        for n in first..first + count {
            let user = format!("user-{}", n % self.settings.users);
            let gateway = self.random.below(self.gateways.len());
            let at = self.now + RETURN_MS + self.random.between(0, within);
            self.client_comes(user, gateway, false, at);
        }
        first..first + count
    }

    /// A client that lost its session is back at once.
    pub(super) fn come_back(&mut self, client: usize) {
        let Client { user, gateway, .. } = &self.clients[client];
        let (user, gateway) = (user.clone(), *gateway);
        let at = self.now + self.random.between(0, 30);
        self.client_comes(user, gateway, true, at);
    }

    fn client_comes(&mut self, user: String, gateway: usize, returns: bool, at: u64) {
        let n = self.clients.len();
        let mut session = [0; 16];
        session[..8].copy_from_slice(&self.random.next().to_le_bytes());
        session[8..].copy_from_slice(&(n as u64).to_le_bytes());
        let session = SessionId(session);
        self.clients.push(Client { user, session, gateway, returns, outcome: None });
        self.by_session.insert(session, n);
        self.at(at, Event::ClientAsks(n));
    }

    pub(super) fn outcome(&self, client: usize) -> Option<Outcome> {
        self.clients[client].outcome.clone()
    }

    /// Until nothing happens any more.
    pub(super) fn run(&mut self) {
        for _ in 0..EVENTS_MAX {
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.core.as_ref().and_then(|core| core.table.next_deadline());
            match (event, deadline) {
                (None, None) => return,
                (Some(at), due) if due.is_none_or(|due| at <= due) => {
                    self.now = self.now.max(at);
                    let (_, event) = self.queue.pop_first().unwrap();
                    self.happen(event);
                }
                (_, Some(due)) => self.now = self.now.max(due),
                (Some(_), None) => unreachable!("taken above"),
            }
            self.broker_turns();
        }
        panic!("no end in sight");
    }

    /// No more faults; everybody comes back, and then all clients leave.
    pub(super) fn heal(&mut self) {
        self.settings = Settings {
            late_percent: 0,
            lost_percent: 0,
            repeated_percent: 0,
            breakdowns: 0,
            // Whoever comes from now on is somebody else.
            users: usize::MAX,
            ..self.settings
        };
        if self.core.is_none() {
            self.start_broker();
        }
        let ids: Vec<_> = self.hosts.iter().map(|host| host.id.clone()).collect();
        for host in ids {
            self.command(Command::Drain {
                host,
                draining: false,
                done: tokio::sync::oneshot::channel().0,
            });
        }
        self.everybody_returns();
        self.run();
        for n in 0..self.clients.len() {
            self.at(self.now, Event::ClientLeaves { client: n });
        }
        self.run();
    }

    pub(super) fn assert_nobody_is_counted(&self) {
        let core = self.core.as_ref().unwrap();
        let slots: Vec<_> = core.table.slots().collect();
        assert!(slots.is_empty(), "{slots:?}");
        for host in &self.hosts {
            assert!(host.seats.is_empty(), "{host:?}");
        }
        for gateway in &self.gateways {
            assert!(gateway.live.is_empty() && gateway.waiting.is_empty(), "{gateway:?}");
        }
    }

    /// Every host is full, and the sum is right.
    pub(super) fn assert_hosts_have(&self, sessions: usize) {
        let seats: Vec<_> = self.hosts.iter().map(|host| host.seats.len()).collect();
        assert!(seats.iter().all(|taken| *taken == self.settings.places as usize), "{seats:?}");
        assert_eq!(seats.iter().sum::<usize>(), sessions);
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    pub(super) fn soon(&mut self, event: Event) {
        let at = self.now + self.random.between(1, 40);
        self.at(at, event);
    }

    /// A message on its way: late, lost or doubled.
    pub(super) fn send(&mut self, event: Event) {
        if self.random.chance(self.settings.lost_percent) {
            return;
        }
        let copies = if self.random.chance(self.settings.repeated_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let late = self.random.chance(self.settings.late_percent);
            let delay = self.random.between(1, if late { 4_000 } else { 20 });
            self.at(self.now + delay, event.clone());
        }
    }

    pub(super) fn host_says(&mut self, host: usize, message: AgentToBroker) {
        if let Some(channel) = self.hosts[host].link.as_ref().map(|link| link.channel) {
            self.send(Event::HostSays { host, channel, message });
        }
    }

    pub(super) fn gateway_says(&mut self, gateway: usize, message: GatewayToBroker) {
        if let Some(channel) = self.gateways[gateway].link.as_ref().map(|link| link.channel) {
            self.send(Event::GatewaySays { gateway, channel, message });
        }
    }

    pub(super) fn session_over(&mut self, gateway: usize, session: SessionId, reason: &str) {
        self.gateway_says(
            gateway,
            GatewayToBroker::SessionEnded {
                session,
                close_reason: reason.into(),
                bytes_up: 0,
                bytes_down: 0,
                duration_ms: 0,
            },
        );
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ClientAsks(client) => self.client_asks(client),
            Event::AskedInVain { gateway, request } => {
                if let Some(client) = self.gateways[gateway].asked.remove(&request) {
                    self.end(client, Outcome::Lost);
                }
            }
            Event::Placing { gateway, channel, judged } => {
                let asked_by = self.gateways[gateway].id.clone();
                self.command(Command::Place { asked_by, channel, judged });
            }
            Event::HostSays { host, channel, message } => {
                let host = self.hosts[host].id.clone();
                self.command(Command::FromAgent { host, channel, message });
            }
            Event::GatewaySays { gateway, channel, message } => {
                let gateway = self.gateways[gateway].id.clone();
                self.command(Command::FromGateway { gateway, channel, message });
            }
            Event::HostHears { host, channel, message } => {
                if self.hosts[host].link.as_ref().is_some_and(|link| link.channel == channel) {
                    self.host_hears(host, message);
                }
            }
            Event::GatewayHears { gateway, channel, message } => {
                let link = self.gateways[gateway].link.as_ref();
                if link.is_some_and(|link| link.channel == channel) {
                    self.gateway_hears(gateway, message);
                }
            }
            Event::ClientArrives { client } => self.client_arrives(client),
            Event::ClientLeaves { client } => self.client_leaves(client),
            Event::WaitedInVain { gateway, session } => self.waited_in_vain(gateway, session),
            Event::TargetAnswers { host, session } => self.target_answers(host, session),
            Event::HostArrives { host, session } => self.host_arrives(host, session),
            Event::HostLegEnds { host, session } => self.host_leg_ends(host, session),
            Event::GatewayLegEnds { gateway, session } => self.gateway_leg_ends(gateway, session),
            Event::HostMissed { host, channel } => {
                let host = self.hosts[host].id.clone();
                self.command(Command::AgentLost { host, channel });
            }
            Event::GatewayMissed { gateway, channel } => {
                let gateway = self.gateways[gateway].id.clone();
                self.command(Command::GatewayLost { gateway, channel });
            }
            Event::HostReturns(host) => self.host_returns(host),
            Event::GatewayReturns(gateway) => self.gateway_returns(gateway),
            Event::BrokerReturns => {
                if self.core.is_none() {
                    self.start_broker();
                    self.everybody_returns();
                }
            }
            Event::Stored { run, key, host, undo } => self.store(run, key, host, undo),
            Event::StoreSays { run, key, outcome } => {
                if run == self.run_number
                    && let Some(core) = &mut self.core
                {
                    core.now_ms = self.now;
                    core.errand_done(Done::AssignmentStored { key, outcome });
                }
            }
            Event::Breakdown => self.break_down(),
        }
    }
}
