//! What the lobby and control threads of one gateway share. The relay workers
//! share none of it: they get sessions and give events.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustls::ServerConfig;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::health::{Ailment, Health};
use super::lobby::OutChannels;
use super::relay::{Leg, RelayWorker, SessionCounters, least_loaded};
use super::reload::Certificates;
use crate::config::current::Current;
use crate::config::gateway::{GatewayConfig, GatewayLimits};
use crate::config::reload::ConfigStatus;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, HostId, SessionId};
use crate::core::pairing::{PairingLimits, PairingTable};
use crate::core::per_address::PerAddress;
use crate::core::revocation::RevokedTickets;
use crate::core::secret::Secret;
use crate::core::selection::Explain;
use crate::core::tickets::{Claims, Role, TicketVerifier, UsedTickets};
use crate::observe::timeline::{Teller, Timeline};
use crate::wire::arm::{GatewayList, RttSample};
use crate::wire::channel::Placement;

/// Requests of the lobby that may wait for the control thread.
const REQUESTS_MAX: usize = 4_096;
/// Used tickets remembered until they expire: 60 s of more legs than a gateway
/// can shake hands with.
const USED_TICKETS_MAX: usize = 1_000_000;
/// Sessions whose tickets are refused, for little more than a minute: as many
/// as a gateway can have.
const REVOKED_SESSIONS_MAX: usize = 1_000_000;

/// What wakes a client that waits for its session host.
#[derive(Debug)]
pub enum Wake {
    Host(Box<Leg>, Joining),
    Refused(Refusal),
}

/// A session between the arrival of its host and its start at a worker: it
/// waits no more and is not relayed yet, but its place is taken.
#[derive(Debug)]
pub struct Joining {
    /// The host leg was admitted.
    pub since: Instant,
    count: Arc<AtomicU64>,
}

impl Joining {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self { since: Instant::now(), count: Arc::clone(count) }
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the lobby asks of the control thread.
#[derive(Debug)]
pub enum Request {
    /// Step 7: select a gateway and have a place reserved.
    Place { question: PlaceQuestion, answer: oneshot::Sender<Result<Placed, Refusal>> },
    /// Before step 7: the gateways that a user may measure.
    List {
        bearer: Secret,
        client_rtt_us: Option<u64>,
        answer: oneshot::Sender<Result<GatewayList, Refusal>>,
    },
    /// Step 8: whether this is a user's token, before there is a resource to
    /// place.
    CheckToken { bearer: Secret, answer: oneshot::Sender<Result<(), Refusal>> },
    /// During step 11: whether this is a token of the user whose session has
    /// this tunnel context.
    Reauthenticate { context: u64, bearer: Secret, answer: oneshot::Sender<Result<(), Refusal>> },
    /// Step 8: have the session host come. A refusal wakes the waiting client
    /// through the pairing table; there is no other answer.
    Orchestrate { session: SessionId },
    /// Step 11 began.
    Started { session: SessionId },
    /// The wait of a client ended without a session.
    GaveUp { session: SessionId, code: Code },
}

/// What a client wants and where it is.
#[derive(Debug)]
pub struct PlaceQuestion {
    pub bearer: Secret,
    pub application: String,
    pub load_balance_info: String,
    pub client: SocketAddr,
    /// The kernel's estimate for the connection that asked.
    pub client_rtt_us: Option<u64>,
    pub samples: Vec<RttSample>,
    pub unreachable: Vec<GatewayId>,
    /// The client is here to stay: no other gateway will do.
    pub here_only: bool,
}

#[derive(Debug)]
pub struct Placed {
    pub placement: Placement,
    pub gateway: GatewayId,
    pub explain: Explain,
}

/// A session that is relayed now.
#[derive(Clone, Debug)]
pub struct LiveEntry {
    pub worker: usize,
    pub host: HostId,
    pub client: SocketAddr,
    pub started_at: UnixMillis,
    pub counters: Arc<SessionCounters>,
    pub reauthentication: Reauthentication,
    /// The control thread has told the broker of it.
    pub announced: bool,
}

/// Whether a client said that it authenticates again when it is asked to
/// (MS-TSGU 2.2.5.3.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reauthentication {
    OnRequest,
    Never,
}

/// Where a gateway is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// No new legs; live sessions go on.
    Draining,
    Stopped,
}

/// Counters of the lobby.
#[derive(Debug, Default)]
pub struct LobbyCounters {
    pub connections_now: AtomicU64,
    pub accepted: AtomicU64,
    /// Times accepting paused because no descriptor was left.
    pub accept_pauses: AtomicU64,
    /// Connections dropped because too many were in the lobby, in all or from
    /// their address.
    pub turned_away: AtomicU64,
    pub handshakes: AtomicU64,
    /// Handshakes that failed or were too slow.
    pub handshakes_failed: AtomicU64,
    /// Closed at a deadline or limit after the handshake.
    pub timeouts: AtomicU64,
    pub refusals: Mutex<HashMap<Code, u64>>,
}

#[derive(Debug)]
pub struct Shared {
    pub id: GatewayId,
    config: Current<GatewayConfig>,
    pub config_status: ConfigStatus,
    /// Shown by the TLS port, and to other machines.
    pub certificates: Certificates,
    pub tls: Arc<ServerConfig>,
    pub tickets: RwLock<TicketVerifier>,
    pub used: Mutex<UsedTickets>,
    /// What an administrator ended.
    pub revoked: Mutex<RevokedTickets>,
    pub pairing: Mutex<PairingTable<SessionId, oneshot::Sender<Wake>>>,
    /// Halves of RD Gateway clients that wait for the other half.
    pub out_channels: Mutex<OutChannels>,
    joining: Arc<AtomicU64>,
    pub live: Mutex<HashMap<SessionId, LiveEntry>>,
    pub workers: Vec<RelayWorker>,
    pub requests: mpsc::Sender<Request>,
    /// Began while that queue was full; the control thread looks once a second.
    pub began_unsaid: Mutex<Vec<SessionId>>,
    pub phase: watch::Receiver<Phase>,
    pub broker_connected: AtomicBool,
    /// Gateways in the broker's table, this one among them.
    pub gateways_known: AtomicUsize,
    /// Other gateways that a round trip is known to.
    pub gateways_measured: AtomicUsize,
    pub health: Health,
    pub counters: LobbyCounters,
    pub lobby_by_address: Mutex<PerAddress>,
    pub teller: Teller,
    pub started_at: UnixMillis,
}

/// The requests' receiving end, for the control thread.
pub type Requests = mpsc::Receiver<Request>;

impl Shared {
    #[must_use]
    pub fn new(
        id: GatewayId,
        config: GatewayConfig,
        certificates: Certificates,
        tls: ServerConfig,
        workers: Vec<RelayWorker>,
        phase: watch::Receiver<Phase>,
        timeline: Option<Timeline>,
    ) -> (Arc<Self>, Requests) {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let limits = pairing_limits(&config.limits);
        let started_at = UnixMillis::now();
        let here = PerAddress::new(config.limits.lobby_connections_per_address_max);
        let shared = Self {
            id,
            config: Current::new(config),
            config_status: ConfigStatus::default(),
            certificates,
            tls: Arc::new(tls),
            tickets: RwLock::default(),
            used: Mutex::new(UsedTickets::new(USED_TICKETS_MAX, started_at)),
            revoked: Mutex::new(RevokedTickets::new(REVOKED_SESSIONS_MAX)),
            pairing: Mutex::new(PairingTable::new(limits)),
            out_channels: Mutex::new(PairingTable::new(limits)),
            joining: Arc::default(),
            live: Mutex::default(),
            workers,
            requests,
            began_unsaid: Mutex::default(),
            phase,
            broker_connected: AtomicBool::new(false),
            gateways_known: AtomicUsize::new(0),
            gateways_measured: AtomicUsize::new(0),
            health: Health::default(),
            counters: LobbyCounters::default(),
            lobby_by_address: Mutex::new(here),
            teller: Teller::new("gateway", timeline),
            started_at,
        };
        (Arc::new(shared), receiver)
    }

    /// What is in force at this moment; a reload replaces it as a whole.
    #[must_use]
    pub fn config(&self) -> Arc<GatewayConfig> {
        self.config.get()
    }

    pub(super) fn replace_config(&self, config: GatewayConfig) {
        let limits = &config.limits;
        lock(&self.pairing).set_limits(pairing_limits(limits));
        lock(&self.out_channels).set_limits(pairing_limits(limits));
        lock(&self.lobby_by_address).set_max(limits.lobby_connections_per_address_max);
        self.config.replace(config);
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Running
    }

    /// What keeps this gateway from working, if anything does. Threads that
    /// end because the gateway stops are well.
    #[must_use]
    pub fn ailment(&self) -> Option<Ailment> {
        if *self.phase.borrow() == Phase::Stopped {
            return None;
        }
        if let Some(worker) = self.workers.iter().position(RelayWorker::is_finished) {
            return Some(Ailment::WorkerEnded { worker });
        }
        if let Some(worker) = self.health.stuck_worker() {
            return Some(Ailment::WorkerStuck { worker });
        }
        let lobby_threads = usize::from(self.config().threads.lobby_threads.max(1));
        (self.health.lobby_alive() < lobby_threads).then_some(Ailment::LobbyEnded)
    }

    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.workers.iter().map(|w| w.stats.sessions.load(Ordering::Relaxed)).sum()
    }

    /// Sessions that are relayed, and those that will be when their hosts come.
    #[must_use]
    pub fn places_taken(&self) -> u64 {
        // In the order in which a session moves on, so that none is missed.
        let pairing = lock(&self.pairing);
        let before = pairing.len() as u64 + self.joining.load(Ordering::SeqCst);
        drop(pairing);
        before + self.sessions()
    }

    /// The client that a host has come for, if it still waits.
    #[must_use]
    pub fn take_waiting(&self, session: SessionId) -> Option<(oneshot::Sender<Wake>, Joining)> {
        let mut pairing = lock(&self.pairing);
        // Counted as joining before the lock is released.
        pairing.take(&session).map(|waker| (waker, Joining::new(&self.joining)))
    }

    /// Checks a leg's ticket and uses it up (steps 8 and 10). Nobody is asked.
    ///
    /// # Errors
    /// What the bearer is told.
    pub fn admit(&self, ticket: &str, role: Role) -> Result<Claims, Code> {
        let now = UnixMillis::now();
        let verifier = self.tickets.read().unwrap_or_else(PoisonError::into_inner);
        let claims = verifier.verify(ticket, &self.id, role, now)?;
        drop(verifier);
        lock(&self.revoked).check(&claims, now)?;
        // A draining gateway still lets the host of a waiting client in.
        if role == Role::Client {
            if self.is_draining() {
                return Err(Code::GatewayDraining);
            }
            if self.places_taken() >= u64::from(self.config().limits.sessions_max) {
                return Err(Code::GatewayFull);
            }
        }
        lock(&self.used).consume(&claims, now)?;
        Ok(claims)
    }

    /// An administrator ended this session after its legs were admitted.
    #[must_use]
    pub fn is_revoked(&self, session: SessionId) -> bool {
        lock(&self.revoked).contains(session, UnixMillis::now())
    }

    /// The worker for the next session, and its index.
    #[must_use]
    pub fn choose_worker(&self) -> Option<(usize, &RelayWorker)> {
        let chosen = least_loaded(&self.workers)?;
        self.workers.iter().enumerate().find(|(_, worker)| std::ptr::eq(*worker, chosen))
    }

    /// Tells the control thread; a full queue is counted as the broker being
    /// out of reach, which is what it amounts to.
    ///
    /// # Errors
    /// [`Code::BrokerUnreachable`].
    pub fn ask(&self, request: Request) -> Result<(), Code> {
        self.requests.try_send(request).map_err(|_| Code::BrokerUnreachable)
    }

    /// Wakes the client that waits for `session`, if it still does.
    pub fn refuse_waiting(&self, session: SessionId, refusal: Refusal) -> bool {
        let waker = lock(&self.pairing).take(&session);
        waker.is_some_and(|waker| waker.send(Wake::Refused(refusal)).is_ok())
    }

    /// Wakes every client that waits. Returns how many there were.
    pub fn refuse_all_waiting(&self, refusal: &Refusal) -> usize {
        let wakers = lock(&self.pairing).take_all();
        let count = wakers.len();
        for waker in wakers {
            // One that is leaving does not need to be told.
            let _ = waker.send(Wake::Refused(refusal.clone()));
        }
        count
    }

    pub fn count_refusal(&self, code: Code) {
        *lock(&self.counters.refusals).entry(code).or_insert(0) += 1;
    }
}

fn pairing_limits(limits: &GatewayLimits) -> PairingLimits {
    PairingLimits {
        waiting_max: limits.waiting_max as usize,
        waiting_per_address_max: limits.waiting_per_address_max,
    }
}

/// A lock that a panicking holder does not take along: what it guards here is
/// consistent between any two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
