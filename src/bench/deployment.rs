//! A broker and a gateway to load, as processes of their own, and the two
//! parties that bring a session about: users who ask the gateway (step 7) and
//! a session host's agent that hears the broker's orders (step 9). Enrolment,
//! tokens, tickets and channel are the real ones.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam::channel::{Sender, unbounded};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc};

use super::engine::{Command, Opener, Route};
use super::leg::Greeting;
use crate::channel::client::{self, ChannelEvent, ChannelHandle, ChannelSettings};
use crate::channel::enroll::{EnrolSettings, Enrolment, enroll};
use crate::cli::ctl;
use crate::connect::session::CONNECTIONS_PATH;
use crate::core::ids::{PoolId, SessionId};
use crate::core::tickets::Role;
use crate::demo::stage::{ReservedPort, ScratchDirectory};
use crate::dial::http::HttpsClient;
use crate::dial::relay::request_head;
use crate::dial::{DialLimits, Dialer, Endpoint, Purpose};
use crate::gateway::relay::Side;
use crate::gateway::relay::ring::Doorbell;
use crate::tls::settings::TlsSettings;
use crate::wire::admin::{AdminRequest, AdminResponse};
use crate::wire::arm::{ConnectionRequest, ConnectionResponse};
use crate::wire::channel::{AgentToBroker, BrokerToAgent, VERSION};
use crate::wire::enroll::MachineRole;

const POOL: &str = "bench";
const DESKTOP: &str = "desktop";
const HOST: &str = "localhost";
/// A process may take this long until it answers.
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const LOG_LINES_SHOWN: usize = 10;
const POLL: Duration = Duration::from_millis(20);
/// Users who ask at once; each waits for one answer of the broker.
const ASKING_AT_ONCE: usize = 64;

/// How a deployment is made.
#[derive(Clone, Copy, Debug)]
pub struct DeploymentSettings {
    /// Sessions that it must take.
    pub sessions_max: u32,
    /// The core that the gateway may use; absent: all.
    pub gateway_core: Option<usize>,
    pub tls: TlsSettings,
}

/// Running processes; ended when dropped.
pub struct Deployment {
    broker: Child,
    gateway: Child,
    gateway_url: Endpoint,
    address: SocketAddr,
    roots: RootCertStore,
    state: PathBuf,
    token: String,
    tls: TlsSettings,
    sessions_max: u32,
    /// There until the end.
    runtime: Option<Runtime>,
    _ports: [ReservedPort; 2],
    directory: ScratchDirectory,
}

impl Deployment {
    /// # Errors
    /// When a process does not come up; its log is shown.
    pub fn start(settings: DeploymentSettings) -> anyhow::Result<Self> {
        let directory = ScratchDirectory::new()?;
        let place = directory.path().to_path_buf();
        let (broker_port, gateway_port) = (ReservedPort::new()?, ReservedPort::new()?);
        let broker_url = format!("https://{HOST}:{}", broker_port.address.port());
        let gateway_url = format!("https://{HOST}:{}", gateway_port.address.port());
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| anyhow::anyhow!("no randomness"))?;
        let token = hex::encode(random);

        let config = broker_config(&place, broker_port.address, &broker_url, &token, settings);
        let broker = spawn(&place, "broker", &config, None)?;
        let mut broker = EndedOnDrop(Some(broker));
        let admin = place.join("broker/admin.sock");
        wait_until(&place, "broker", &mut broker, || {
            ctl::ask(&admin, &AdminRequest::Status).is_ok()
        })?;

        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        for (role, name) in [(MachineRole::Gateway, "gateway"), (MachineRole::Agent, "host")] {
            let state_dir = place.join(name);
            let enrolled = enrol(&admin, &broker_url, role, &state_dir);
            runtime.block_on(enrolled).with_context(|| format!("enrolling the {name}"))?;
        }
        let config = gateway_config(&place, gateway_port.address, &gateway_url, settings);
        let gateway = spawn(&place, "gateway-process", &config, settings.gateway_core)?;
        let mut gateway = EndedOnDrop(Some(gateway));
        let admin = place.join("gateway/admin.sock");
        wait_until(&place, "gateway-process", &mut gateway, || {
            // It knows itself once the broker has told it of all gateways.
            matches!(ctl::ask(&admin, &AdminRequest::Gateways),
                Ok(AdminResponse::Judged { explain }) if !explain.lines.is_empty())
        })?;
        let state = place.join("host");
        let roots = Enrolment::load_as(&state, MachineRole::Agent)?.roots;
        let (Some(broker), Some(gateway)) = (broker.0.take(), gateway.0.take()) else {
            anyhow::bail!("a process is gone");
        };
        Ok(Self {
            broker,
            gateway,
            gateway_url: gateway_url.parse()?,
            address: gateway_port.address,
            roots,
            state,
            token,
            tls: settings.tls,
            sessions_max: settings.sessions_max,
            runtime: Some(runtime),
            _ports: [broker_port, gateway_port],
            directory,
        })
    }

    #[must_use]
    pub fn gateway_pid(&self) -> u32 {
        self.gateway.id()
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub const fn url(&self) -> &Endpoint {
        &self.gateway_url
    }

    /// The last words of both processes.
    #[must_use]
    pub fn log(&self) -> String {
        let place = self.directory.path();
        let last = |name: &str| {
            let log =
                std::fs::read_to_string(place.join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(LOG_LINES_SHOWN).collect();
            lines.into_iter().rev().map(|line| format!("\n  {name}: {line}")).collect::<String>()
        };
        last("broker") + &last("gateway-process")
    }

    /// A client that trusts the gateway.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn client_tls(&self) -> anyhow::Result<ClientConfig> {
        Ok(self.tls.client(self.roots.clone())?)
    }

    /// Starts the users and the session host's agent, and waits until the
    /// broker knows the host.
    ///
    /// # Errors
    /// When the channel does not open.
    pub fn route(&self) -> anyhow::Result<Route> {
        let (commands, inbox) = unbounded();
        let bell = Arc::new(Doorbell::new()?);
        let engine = ToEngine { commands, bell: Arc::clone(&bell), numbers: Arc::default() };
        let runtime = self.runtime.as_ref().context("the deployment has ended")?;
        let _inside = runtime.enter();

        let enrolment = Enrolment::load_as(&self.state, MachineRole::Agent)?;
        let dial = DialLimits::default();
        let dialer = Dialer::new(enrolment.client_tls(TlsSettings::default())?, dial);
        let broker: Endpoint = enrolment.record.broker_url.parse()?;
        let capacity = self.sessions_max;
        let settings = ChannelSettings {
            queue_length: 8_192,
            ..ChannelSettings::new(broker, dialer, MachineRole::Agent)
        };
        let (channel, events) = client::spawn(settings, move || {
            let software = concat!("ringway bench ", env!("CARGO_PKG_VERSION")).into();
            vec![AgentToBroker::Hello { version: VERSION, software, live: Vec::new(), capacity }]
        });
        let (welcomed, welcome) = tokio::sync::oneshot::channel();
        runtime.spawn(hear_orders(channel, events, engine.clone(), welcomed, self.address));
        runtime
            .block_on(async { tokio::time::timeout(START_LIMIT, welcome).await })
            .context("the broker did not welcome the session host in time")??;

        let https = HttpsClient::new(self.client_tls()?, dial)?;
        let user = User {
            https,
            url: self.gateway_url.url(CONNECTIONS_PATH),
            token: self.token.clone().into(),
            address: self.address,
            engine,
        };
        let (ask, asked) = mpsc::unbounded_channel();
        runtime.spawn(ask_for_sessions(user, asked));
        let opener: Opener = Box::new(move |number| {
            // Its receiver ends with the runtime, and that after the engine.
            let _ = ask.send(number);
        });
        Ok(Route::Arranged { opener, commands: inbox, bell })
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        // The session host leaves before the broker does.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(POLL);
        }
        for child in [&mut self.gateway, &mut self.broker] {
            end(child);
        }
    }
}

/// Ends a process that the deployment does not have yet.
struct EndedOnDrop(Option<Child>);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let until = Instant::now() + STOP_LIMIT;
    while Instant::now() < until {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The way to the engine, and which session is which.
#[derive(Clone)]
struct ToEngine {
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
    /// Sessions that were placed and whose host has not been ordered yet.
    numbers: Arc<Mutex<HashMap<SessionId, u32>>>,
}

impl ToEngine {
    fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
        self.bell.ring();
    }

    fn placed(&self, number: u32, session: SessionId) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).insert(session, number);
    }

    fn number_of(&self, session: SessionId) -> Option<u32> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).remove(&session)
    }

    fn dial(&self, session: u32, side: Side, url: &str, address: SocketAddr, ticket: &str) {
        let role = if side == Side::Client { Role::Client } else { Role::Host };
        let endpoint = url.parse::<Endpoint>().map_err(|error| error.to_string());
        let command = endpoint.and_then(|endpoint| {
            let name = endpoint.server_name().map_err(|error| error.to_string())?;
            let head = request_head(&endpoint, role, ticket).map_err(|error| error.to_string())?;
            Ok(Command::Dial { session, side, address, name, greeting: Greeting::Relay(head) })
        });
        self.tell(command.unwrap_or_else(|why| Command::Failed { session, why }));
    }
}

/// The session host's agent, as far as the broker sees it.
async fn hear_orders(
    channel: ChannelHandle<AgentToBroker>,
    mut events: mpsc::Receiver<ChannelEvent<BrokerToAgent>>,
    engine: ToEngine,
    welcomed: tokio::sync::oneshot::Sender<()>,
    address: SocketAddr,
) {
    let mut welcomed = Some(welcomed);
    while let Some(event) = events.recv().await {
        match event {
            ChannelEvent::Message(BrokerToAgent::Welcome { .. }) => {
                if let Some(welcomed) = welcomed.take() {
                    let _ = welcomed.send(());
                }
            }
            ChannelEvent::Message(BrokerToAgent::Order(order)) => {
                let session = order.session;
                let _ = channel.send(AgentToBroker::OrderAccepted { session });
                match engine.number_of(session) {
                    Some(number) => {
                        engine.dial(
                            number,
                            Side::Host,
                            &order.gateway_url,
                            address,
                            order.ticket.expose(),
                        );
                    }
                    None => {
                        tracing::warn!(%session, "An order for a session that nobody asked for")
                    }
                }
            }
            ChannelEvent::Message(BrokerToAgent::Cancel { session, refusal }) => {
                tracing::warn!(%session, %refusal, "The broker cancelled a session");
            }
            ChannelEvent::Up | ChannelEvent::Down { .. } => {}
        }
    }
}

/// A user of the gateway.
struct User {
    https: HttpsClient,
    url: String,
    token: Arc<str>,
    address: SocketAddr,
    engine: ToEngine,
}

async fn ask_for_sessions(user: User, mut asked: mpsc::UnboundedReceiver<u32>) {
    let user = Arc::new(user);
    let turns = Arc::new(Semaphore::new(ASKING_AT_ONCE));
    while let Some(number) = asked.recv().await {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let user = Arc::clone(&user);
        tokio::spawn(async move {
            user.ask(number).await;
            drop(turn);
        });
    }
}

impl User {
    async fn ask(&self, number: u32) {
        let request = ConnectionRequest {
            application: DESKTOP.into(),
            load_balance_info: String::new(),
            ringway_rtt_samples: Vec::new(),
        };
        let answer: Result<ConnectionResponse, _> =
            self.https.post_json(Purpose::CLIENT_LEG, &self.url, Some(&self.token), &request).await;
        match answer {
            Ok(answer) => {
                self.engine.placed(number, answer.ringway.session);
                let ticket = answer.ringway.ticket.expose();
                self.engine.dial(
                    number,
                    Side::Client,
                    &answer.gateway_location,
                    self.address,
                    ticket,
                );
            }
            Err(error) => {
                self.engine.tell(Command::Failed { session: number, why: error.to_string() });
            }
        }
    }
}

async fn enrol(
    admin: &Path,
    broker_url: &str,
    role: MachineRole,
    state_dir: &Path,
) -> anyhow::Result<()> {
    let pool: Option<PoolId> = match role {
        MachineRole::Agent => Some(POOL.parse()?),
        MachineRole::Gateway => None,
    };
    let server_names = if role == MachineRole::Gateway { vec![HOST.to_owned()] } else { vec![] };
    let request = AdminRequest::CreateToken {
        role,
        pool,
        ttl_ms: 60_000,
        uses: 1,
        server_names: server_names.clone(),
    };
    let AdminResponse::Token(created) = ctl::ask(admin, &request)? else {
        anyhow::bail!("the broker gave no token");
    };
    enroll(&EnrolSettings {
        broker: broker_url.parse()?,
        token: created.token.parse()?,
        role,
        state_dir: state_dir.to_owned(),
        name: format!("bench-{}", role.as_str()),
        server_names,
        ca: None,
        force: false,
        limits: DialLimits::default(),
    })
    .await?;
    Ok(())
}

fn broker_config(
    place: &Path,
    address: SocketAddr,
    url: &str,
    token: &str,
    settings: DeploymentSettings,
) -> String {
    let state = place.join("broker");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let (hash, sessions) = (hex::encode(hash.as_ref()), settings.sessions_max);
    format!(
        "[broker]\nlisten = \"{address}\"\npublic_url = \"{url}\"\nserver_names = [\"{HOST}\"]\n\
         state_dir = {state:?}\n\
         [broker.limits]\nreservations_per_user_max = {}\nchannel_queue_max = 16384\n\
         order_answer_timeout_ms = 10000\n\
         [[broker.pools]]\nname = \"{POOL}\"\nsessions_per_host_max = {sessions}\n\
         [[broker.resources]]\nid = \"{DESKTOP}\"\ntitle = \"Bench\"\npool = \"{POOL}\"\nusers = [\"*\"]\n\
         [[broker.identity.static_tokens]]\nuser = \"bench\"\ntoken_sha256 = \"{hash}\"\n",
        sessions as usize + ASKING_AT_ONCE
    )
}

fn gateway_config(
    place: &Path,
    address: SocketAddr,
    url: &str,
    settings: DeploymentSettings,
) -> String {
    let state = place.join("gateway");
    let (sessions, aes128) = (settings.sessions_max, settings.tls.prefer_aes128);
    // Confined to a core, one worker is all there is room for.
    let threads = match settings.gateway_core {
        Some(_) => "relay_workers = 1\npin = false\n",
        None => "",
    };
    format!(
        "[gateway]\nlisten = \"{address}\"\nurl = \"{url}\"\nstate_dir = {state:?}\n\
         [gateway.tls]\nprefer_aes128 = {aes128}\n[gateway.threads]\n{threads}\
         [gateway.limits]\nsessions_max = {sessions}\nlobby_connections_max = 16384\n\
         lobby_connections_per_address_max = 16384\nwaiting_max = 16384\n\
         waiting_per_address_max = 16384\nbroker_timeout_ms = 15000\npair_timeout_ms = 20000\n"
    )
}

/// Starts `ringway ROLE --config …`, on this core if one is named.
fn spawn(place: &Path, name: &str, config: &str, core: Option<usize>) -> anyhow::Result<Child> {
    let role = if name == "broker" { "broker" } else { "gateway" };
    let file = place.join(format!("{name}.toml"));
    std::fs::write(&file, config)?;
    let log = std::fs::File::create(place.join(format!("{name}.log")))?;
    let mut process = Process::new(std::env::current_exe().context("where is this program?")?);
    process.arg(role).arg("--config").arg(&file);
    process.env("RINGWAY_LOG", std::env::var("RINGWAY_LOG").unwrap_or_else(|_| "warn".into()));
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // A child inherits the cores of the thread that starts it.
    let before = sched_getaffinity(None)?;
    if let Some(core) = core {
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only).with_context(|| format!("there is no core {core}"))?;
    }
    let child = process.spawn().with_context(|| format!("cannot start ringway {role}"));
    sched_setaffinity(None, &before)?;
    child
}

fn wait_until(
    place: &Path,
    name: &str,
    child: &mut EndedOnDrop,
    is_ready: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let until = Instant::now() + START_LIMIT;
    while Instant::now() < until {
        if is_ready() {
            return Ok(());
        }
        if child.0.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
            break;
        }
        std::thread::sleep(POLL);
    }
    let log = std::fs::read_to_string(place.join(format!("{name}.log"))).unwrap_or_default();
    anyhow::bail!("ringway {name} did not come up; it said: {log}")
}

impl std::fmt::Debug for Deployment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deployment").field("gateway", &self.gateway_url).finish_non_exhaustive()
    }
}
