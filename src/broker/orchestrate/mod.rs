//! One task owns all live state: hosts, gateways, places, orders.
//!
//! Everybody else sends it a [`Command`] over one bounded queue and it posts
//! its answers to the machines' channels, which never wait. So there is no
//! lock, and every decision sees the table as it is.

mod machines;
mod records;
mod reload;
mod sessions;

pub use records::HOST_ENDED;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::channel::pump::Outbox;
use crate::config::broker::{BrokerConfig, Limits, Pool};
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, HostId, PoolId, ResourceId, SessionId};
use crate::core::placement::HostTable;
use crate::core::selection::Explain;
use crate::core::tickets::TicketSigner;
use crate::observe::timeline::Teller;
use crate::wire::admin::{BrokerSnapshot, SessionView};
use crate::wire::channel::{AgentToBroker, BrokerToAgent, BrokerToGateway, GatewayToBroker};
use crate::wire::enroll::MachineRole;
use records::Records;

/// How often deadlines of the table are looked at.
const TICK: Duration = Duration::from_millis(25);
/// Changes of the gateway table within this time travel together.
const TABLE_DEBOUNCE: Duration = Duration::from_millis(50);

/// How long goodbyes may take at a stop.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells one channel of a machine from the next one of the same machine.
pub type ChannelNumber = u64;

/// A user's request that was judged: known, assigned, and meant for this
/// gateway.
#[derive(Clone, Debug)]
pub struct Judged {
    pub request: u64,
    pub session: SessionId,
    pub user: String,
    pub resource: ResourceId,
    pub pool: PoolId,
    pub client_address: String,
    pub gateway: GatewayId,
    pub explain: Explain,
}

/// What the owner task can be asked.
#[derive(Debug)]
pub enum Command {
    AgentConnected {
        host: HostId,
        pool: PoolId,
        channel: ChannelNumber,
        outbox: Outbox<BrokerToAgent>,
        capacity: u32,
        live: Vec<SessionId>,
    },
    FromAgent {
        host: HostId,
        channel: ChannelNumber,
        message: AgentToBroker,
    },
    AgentLost {
        host: HostId,
        channel: ChannelNumber,
    },
    GatewayConnected {
        gateway: GatewayId,
        channel: ChannelNumber,
        outbox: Outbox<BrokerToGateway>,
        url: String,
        capacity: u32,
        live: Vec<SessionId>,
    },
    FromGateway {
        gateway: GatewayId,
        channel: ChannelNumber,
        message: GatewayToBroker,
    },
    GatewayLost {
        gateway: GatewayId,
        channel: ChannelNumber,
    },
    /// A place for a user, asked for by the entry gateway.
    Place {
        asked_by: GatewayId,
        channel: ChannelNumber,
        judged: Judged,
    },
    Drain {
        host: HostId,
        draining: bool,
        done: oneshot::Sender<()>,
    },
    /// Close the channel of a machine that may not have one any more.
    Expel {
        role: MachineRole,
        name: String,
        why: Refusal,
    },
    /// Other limits and pools from now on.
    Reload {
        limits: Limits,
        pools: Vec<Pool>,
        done: oneshot::Sender<()>,
    },
    Snapshot {
        answer: oneshot::Sender<BrokerSnapshot>,
    },
    Explain {
        session: SessionId,
        answer: oneshot::Sender<Option<(SessionView, Explain)>>,
    },
    /// Say goodbye on all channels and end.
    Stop {
        done: oneshot::Sender<()>,
    },
}

/// How to reach the owner task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Queues a command; waits while the queue is full. `false` when the
    /// broker is stopping.
    pub async fn send(&self, command: Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    /// The state at one moment; empty when the broker is stopping.
    pub async fn snapshot(&self) -> BrokerSnapshot {
        let (answer, snapshot) = oneshot::channel();
        self.send(Command::Snapshot { answer }).await;
        snapshot.await.unwrap_or_default()
    }
}

/// What the owner task starts from.
#[derive(Debug)]
pub struct Start {
    pub signer: TicketSigner,
    pub teller: Teller,
    /// Enrolled session hosts, so that they are listed before they connect.
    pub hosts: Vec<(HostId, PoolId)>,
    pub drained: Vec<HostId>,
}

/// Starts the owner task.
#[must_use]
pub fn start(config: &BrokerConfig, start: Start) -> Handle {
    let (commands, queue) = mpsc::channel(config.limits.command_queue_max);
    let core = Core::new(config, start);
    tokio::spawn(core.run(queue));
    Handle { commands }
}

/// An order that the host has not answered: whom to tell.
#[derive(Debug)]
struct PendingOrder {
    gateway: GatewayId,
    request: u64,
}

#[derive(Debug)]
struct AgentChannel {
    channel: ChannelNumber,
    outbox: Outbox<BrokerToAgent>,
}

#[derive(Debug)]
struct GatewayChannel {
    channel: ChannelNumber,
    outbox: Outbox<BrokerToGateway>,
    url: String,
    capacity: u32,
    connections: u32,
    waiting: u32,
    draining: bool,
    reported_at: Instant,
    /// Placed there and not in that report's connections.
    in_flight: u32,
}

#[derive(Debug)]
struct Core {
    limits: Limits,
    epoch: Instant,
    table: HostTable,
    records: Records,
    agents: BTreeMap<HostId, AgentChannel>,
    gateways: BTreeMap<GatewayId, GatewayChannel>,
    orders: HashMap<SessionId, PendingOrder>,
    drained: std::collections::BTreeSet<HostId>,
    signer: TicketSigner,
    teller: Teller,
    table_due: Instant,
}

impl Core {
    fn new(config: &BrokerConfig, start: Start) -> Self {
        let limits = config.limits;
        let mut table =
            HostTable::new(reload::hold_rules(&limits), reload::pool_rules(&config.pools));
        for (host, pool) in start.hosts {
            table.host_known(host, pool);
        }
        for host in &start.drained {
            table.set_draining(host, true);
        }
        Self {
            limits,
            epoch: Instant::now(),
            table,
            records: Records::default(),
            agents: BTreeMap::new(),
            gateways: BTreeMap::new(),
            orders: HashMap::new(),
            drained: start.drained.into_iter().collect(),
            signer: start.signer,
            teller: start.teller,
            table_due: Instant::now(),
        }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = queue.recv() => match command {
                    None => return,
                    Some(Command::Stop { done }) => {
                        let _some_do_not_read = timeout(GOODBYE_TIMEOUT, self.say_goodbye()).await;
                        let _nobody_waits = done.send(());
                        return;
                    }
                    Some(command) => self.handle(command),
                },
                _ = tick.tick() => self.on_tick(),
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::AgentConnected { host, pool, channel, outbox, capacity, live } => {
                self.agent_connected(
                    host,
                    &pool,
                    AgentChannel { channel, outbox },
                    capacity,
                    &live,
                );
            }
            Command::FromAgent { host, channel, message } => {
                if self.agents.get(&host).is_some_and(|agent| agent.channel == channel) {
                    self.on_agent_message(&host, message);
                }
            }
            Command::AgentLost { host, channel } => self.agent_lost(&host, channel),
            Command::GatewayConnected { gateway, channel, outbox, url, capacity, live } => {
                let state = GatewayChannel {
                    channel,
                    outbox,
                    url,
                    capacity,
                    connections: u32::try_from(live.len()).unwrap_or(u32::MAX),
                    waiting: 0,
                    draining: false,
                    reported_at: Instant::now(),
                    in_flight: 0,
                };
                self.gateway_connected(gateway, state, &live);
            }
            Command::FromGateway { gateway, channel, message } => {
                if self.gateways.get(&gateway).is_some_and(|known| known.channel == channel) {
                    self.on_gateway_message(&gateway, message);
                }
            }
            Command::GatewayLost { gateway, channel } => self.gateway_lost(&gateway, channel),
            Command::Place { asked_by, channel, judged } => {
                if self.gateways.get(&asked_by).is_some_and(|known| known.channel == channel) {
                    self.place(&asked_by, judged);
                }
            }
            Command::Drain { host, draining, done } => {
                self.drain(host, draining);
                let _nobody_waits = done.send(());
            }
            Command::Expel { role, name, why } => self.expel(role, &name, why),
            Command::Reload { limits, pools, done } => {
                self.reload(limits, &pools);
                let _nobody_waits = done.send(());
            }
            Command::Snapshot { answer } => {
                let _nobody_waits = answer.send(self.snapshot());
            }
            Command::Explain { session, answer } => {
                let explained = self.records.view(session, self.table.slot(session));
                let _nobody_waits = answer.send(explained);
            }
            Command::Stop { .. } => {}
        }
    }

    fn on_tick(&mut self) {
        let freed = self.table.expire(self.now());
        self.settle(freed);
        if Instant::now() >= self.table_due {
            self.broadcast_gateways();
        }
    }

    /// Milliseconds on the table's clock.
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn say_goodbye(&mut self) {
        let refusal = Refusal::with_detail(Code::BrokerUnreachable, "the broker is stopping");
        for agent in self.agents.values() {
            agent.outbox.close(refusal.clone());
        }
        for gateway in self.gateways.values() {
            gateway.outbox.close(refusal.clone());
        }
        for agent in self.agents.values() {
            agent.outbox.ended().await;
        }
        for gateway in self.gateways.values() {
            gateway.outbox.ended().await;
        }
    }

    fn tell_agent(&self, host: &HostId, message: BrokerToAgent) -> bool {
        self.agents.get(host).is_some_and(|agent| agent.outbox.post(message))
    }

    fn tell_gateway(&self, gateway: &GatewayId, message: BrokerToGateway) -> bool {
        self.gateways.get(gateway).is_some_and(|known| known.outbox.post(message))
    }
}
