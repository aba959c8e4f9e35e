//! One task owns all live state: hosts, gateways, places, orders.
//!
//! Everybody else sends it a [`Command`] over one bounded queue and it posts
//! its answers to the machines' channels, which never wait. So there is no
//! lock, and every decision sees the table as it is. What takes time (the
//! store, a command that starts a machine) is an [`Errand`]: it is run aside,
//! and its outcome comes back like any other news.

mod disconnect;
mod errands;
mod lately;
mod machines;
mod pools;
mod records;
mod reload;
mod returning;
mod sessions;
mod settling;
#[cfg(test)]
mod simulation;

pub use disconnect::{COMES_BACK_WITHIN_MS, Ended};
pub use records::HOST_ENDED;
pub use sessions::Ownership;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::audit::AuditLog;
use super::store::PlacedBefore;
use super::ticket_keys::Keys;
use crate::broker::store::Store;
use crate::channel::pump::Outbox;
use crate::config::broker::{BrokerConfig, Limits, Pool};
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::health::HostCheck;
use crate::core::ids::{GatewayId, HostId, Label, PoolId, ResourceId, SessionId};
use crate::core::placement::{AssignmentKey, HostTable, Wish};
use crate::core::selection::Explain;
use crate::observe::timeline::Teller;
use crate::wire::admin::{BrokerSnapshot, SessionView, Whom};
use crate::wire::channel::{AgentToBroker, BrokerToAgent, BrokerToGateway, GatewayToBroker};
use crate::wire::enroll::MachineRole;
use errands::{Done, Errand};
use pools::Waiter;
use records::Records;

/// How often deadlines of the table are looked at.
const TICK: Duration = Duration::from_millis(25);
/// Changes of the gateway table within this time travel together.
const TABLE_DEBOUNCE_MS: u64 = 50;

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
    /// The client is at that gateway already, and may have come back to it.
    pub here_only: bool,
    /// The request came; judging it took until now.
    pub asked_at: Instant,
}

impl Judged {
    fn wish(&self) -> Wish {
        Wish {
            session: self.session,
            user: self.user.clone(),
            pool: self.pool.clone(),
            gateway: self.gateway.clone(),
            former: None,
        }
    }
}

/// What a session host says of itself when it comes.
#[derive(Clone, Debug, Default)]
pub struct HostHello {
    pub capacity: u32,
    pub live: Vec<SessionId>,
    pub labels: Vec<Label>,
    pub checks: Vec<HostCheck>,
}

/// What the owner task can be asked.
#[derive(Debug)]
pub enum Command {
    AgentConnected {
        host: HostId,
        pool: PoolId,
        channel: ChannelNumber,
        outbox: Outbox<BrokerToAgent>,
        hello: HostHello,
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
    /// Whether a session is this user's.
    IsOf(Ownership),
    Drain {
        host: HostId,
        draining: bool,
        done: oneshot::Sender<()>,
    },
    DrainLabel {
        label: Label,
        draining: bool,
        done: oneshot::Sender<()>,
    },
    /// The operator gives a user a host, or takes it away.
    Assign {
        key: AssignmentKey,
        host: HostId,
        undo: bool,
        /// Once it is stored; else what speaks against it.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// A session host was enrolled: it is known before it connects.
    HostEnrolled {
        host: HostId,
        pool: PoolId,
    },
    /// End sessions, and let none of their tickets work again.
    Disconnect {
        whom: Whom,
        /// And close the channel of the machine whose they are, for good.
        expel: bool,
        answer: oneshot::Sender<Ended>,
    },
    /// The ticket keys changed.
    Keys(Keys),
    /// Close the channel of a machine that may not have one any more.
    Expel {
        role: MachineRole,
        name: String,
        /// It was revoked: nobody expects it back.
        for_good: bool,
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
    pub keys: Keys,
    pub audit: AuditLog,
    pub teller: Teller,
    /// Enrolled session hosts, so that they are listed before they connect.
    pub hosts: Vec<(HostId, PoolId)>,
    pub drained: Vec<HostId>,
    pub drained_labels: Vec<Label>,
    pub assignments: Vec<(AssignmentKey, HostId)>,
    /// Sessions of an earlier run that may still live.
    pub placed_before: Vec<PlacedBefore>,
    /// Sessions that an administrator ended, until when that matters.
    pub revoked: Vec<(SessionId, UnixMillis)>,
}

/// Starts the owner task.
#[must_use]
pub fn start(config: &BrokerConfig, start: Start, store: Store) -> Handle {
    let (commands, queue) = mpsc::channel(config.limits.command_queue_max);
    let core = Core::new(config, start);
    tokio::spawn(core.run(queue, store));
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
    /// What it last said about its host.
    checks: Vec<HostCheck>,
    /// What the host's RDP server shows, as base64 of its DER.
    certificate: Option<String>,
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
    reported_at_ms: u64,
    /// Placed there and not in that report's connections.
    in_flight: u32,
}

#[derive(Debug)]
struct Core {
    limits: Limits,
    pools: BTreeMap<PoolId, Pool>,
    /// The table's clock, read once for each piece of news.
    now_ms: u64,
    table: HostTable,
    records: Records,
    agents: BTreeMap<HostId, AgentChannel>,
    gateways: BTreeMap<GatewayId, GatewayChannel>,
    orders: HashMap<SessionId, PendingOrder>,
    /// To be run aside, next.
    errands: Vec<Errand>,
    /// Who waits for the store to be done with a user's assignment.
    waiters: HashMap<AssignmentKey, Vec<Waiter>>,
    /// Hosts whose start command runs.
    start_commands: std::collections::BTreeSet<HostId>,
    keys: Keys,
    revocations: disconnect::Revocations,
    placed_before: HashMap<SessionId, PlacedBefore>,
    teller: Teller,
    table_due_ms: u64,
}

impl Core {
    fn new(config: &BrokerConfig, start: Start) -> Self {
        let limits = config.limits;
        let pools = reload::by_name(&config.pools);
        let mut table = HostTable::new(reload::hold_rules(&limits), reload::pool_rules(&pools));
        for (host, pool) in start.hosts {
            table.host_known(host, pool);
        }
        for host in &start.drained {
            table.set_draining(host, true);
        }
        for label in &start.drained_labels {
            table.set_label_draining(label, true);
        }
        for (key, host) in start.assignments {
            table.assignment_known(key, host);
        }
        Self {
            limits,
            pools,
            now_ms: 0,
            table,
            records: Records::new(start.audit),
            agents: BTreeMap::new(),
            gateways: BTreeMap::new(),
            orders: HashMap::new(),
            errands: Vec::new(),
            waiters: HashMap::new(),
            start_commands: std::collections::BTreeSet::new(),
            keys: start.keys,
            revocations: disconnect::Revocations::new(start.revoked),
            placed_before: start.placed_before.into_iter().map(|p| (p.session, p)).collect(),
            teller: start.teller,
            table_due_ms: 0,
        }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Command>, store: Store) {
        let epoch = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Ends with this task, and all errands with it.
        let mut aside = JoinSet::new();
        loop {
            for errand in self.errands.drain(..) {
                aside.spawn(errand.run(store.clone()));
            }
            tokio::select! {
                command = queue.recv() => match command {
                    None => return,
                    Some(Command::Stop { done }) => {
                        let _some_do_not_read = timeout(GOODBYE_TIMEOUT, self.say_goodbye()).await;
                        let _nobody_waits = done.send(());
                        return;
                    }
                    Some(command) => {
                        self.now_ms = ms(epoch.elapsed());
                        self.handle(command);
                    }
                },
                Some(done) = aside.join_next() => {
                    self.now_ms = ms(epoch.elapsed());
                    match done {
                        Ok(done) => self.errand_done(done),
                        Err(error) => tracing::error!(%error, "An errand failed"),
                    }
                }
                _ = tick.tick() => {
                    self.now_ms = ms(epoch.elapsed());
                    self.on_tick();
                }
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::AgentConnected { host, pool, channel, outbox, hello } => {
                let agent = AgentChannel { channel, outbox, checks: Vec::new(), certificate: None };
                self.agent_connected(host, &pool, agent, hello);
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
                    reported_at_ms: self.now_ms,
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
                    self.place(&asked_by, channel, judged);
                }
            }
            Command::IsOf(ownership) => self.tell_whether_it_is_of(ownership),
            Command::Drain { host, draining, done } => {
                self.drain(host, draining);
                let _nobody_waits = done.send(());
            }
            Command::DrainLabel { label, draining, done } => {
                self.drain_label(&label, draining);
                let _nobody_waits = done.send(());
            }
            Command::Assign { key, host, undo, done } => self.assign(key, host, undo, done),
            Command::HostEnrolled { host, pool } => self.table.host_known(host, pool),
            Command::Expel { role, name, for_good, why } => {
                self.expel(role, &name, for_good, why);
            }
            Command::Disconnect { whom, expel, answer } => {
                let ended = self.disconnect(&whom);
                if expel {
                    self.expel_revoked(&whom);
                }
                let _nobody_waits = answer.send(ended);
            }
            Command::Keys(keys) => {
                self.keys = keys;
                self.broadcast_gateways();
            }
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
        let freed = self.table.expire(self.now_ms);
        self.settle(freed);
        if self.now_ms >= self.table_due_ms {
            self.broadcast_gateways();
        }
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

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
