//! A broker and a gateway to load, as processes of their own. Enrolment, tokens,
//! tickets and channel are the real ones; [`super::parties`] makes use of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam::channel::unbounded;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustls::RootCertStore;
use tokio::runtime::Runtime;

use super::engine::{Opener, Route};
use super::framing::ClientLeg;
use super::parties::{ASKING_AT_ONCE, ToEngine, User, serve_orders};
use crate::channel::enroll::{EnrolSettings, Enrolment, enroll};
use crate::cli::ctl;
use crate::core::ids::PoolId;
use crate::demo::stage::{ReservedPort, ScratchDirectory};
use crate::dial::http::HttpsClient;
use crate::dial::{DialLimits, Endpoint};
use crate::gateway::relay::ring::Doorbell;
use crate::tls::settings::TlsSettings;
use crate::wire::admin::{AdminRequest, AdminResponse};
use crate::wire::arm::CONNECTIONS_PATH;
use crate::wire::enroll::MachineRole;

const POOL: &str = "bench";
pub(super) const DESKTOP: &str = "desktop";
const HOST: &str = "localhost";
/// A process may take this long until it answers.
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const LOG_LINES_SHOWN: usize = 10;
const POLL: Duration = Duration::from_millis(20);

/// Sessions of users of their own: the first ones, so many of each user. All
/// others are one user's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    pub users: u32,
    pub sessions_each: u32,
}

impl Marks {
    #[must_use]
    pub const fn sessions(self) -> u32 {
        self.users.saturating_mul(self.sessions_each)
    }

    #[must_use]
    pub const fn numbers_of(self, user: u32) -> std::ops::Range<u32> {
        user * self.sessions_each..(user + 1) * self.sessions_each
    }

    #[must_use]
    pub fn user(number: u32) -> String {
        format!("bench-{number}")
    }

    /// The token of whose session this is.
    pub(super) fn token(self, secret: &str, session: u32) -> String {
        match session.checked_div(self.sessions_each) {
            Some(user) if user < self.users => format!("{secret}-{user}"),
            _ => secret.to_owned(),
        }
    }
}

/// How a deployment is made.
#[derive(Clone, Debug)]
pub struct DeploymentSettings {
    /// Sessions that it must take.
    pub sessions_max: u32,
    pub marks: Marks,
    /// The core that the gateway may use; absent: all.
    pub gateway_core: Option<usize>,
    /// Lines of TOML for its `[gateway.threads]`.
    pub thread_settings: Vec<String>,
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
    marks: Marks,
    /// There until the end.
    runtime: Option<Runtime>,
    _ports: [ReservedPort; 2],
    directory: ScratchDirectory,
}

impl Deployment {
    /// # Errors
    /// When a process does not come up; its log is shown.
    pub fn start(settings: &DeploymentSettings) -> anyhow::Result<Self> {
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
            marks: settings.marks,
            runtime: Some(runtime),
            _ports: [broker_port, gateway_port],
            directory,
        })
    }

    #[must_use]
    pub fn gateway_pid(&self) -> u32 {
        self.gateway.id()
    }

    /// Where the broker takes orders.
    #[must_use]
    pub fn broker_socket(&self) -> PathBuf {
        self.directory.path().join("broker/admin.sock")
    }

    /// Output slots that hold bytes, as the gateway says.
    #[must_use]
    pub fn slots_used(&self) -> Option<u64> {
        let admin = self.directory.path().join("gateway/admin.sock");
        match ctl::ask(&admin, &AdminRequest::Status) {
            Ok(AdminResponse::GatewayStatus(status)) => {
                Some(status.workers.iter().map(|worker| worker.slots_used).sum())
            }
            _ => None,
        }
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

    /// Whom a client trusts that trusts the gateway.
    #[must_use]
    pub const fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    /// Starts the users and the session host's agent, and waits until the
    /// broker knows the host.
    ///
    /// # Errors
    /// When the channel does not open.
    pub fn route(&self, leg: ClientLeg) -> anyhow::Result<Route> {
        let (commands, inbox) = unbounded();
        let bell = Arc::new(Doorbell::new()?);
        let engine = ToEngine::new(commands, Arc::clone(&bell), leg);
        let runtime = self.runtime.as_ref().context("the deployment has ended")?;
        let _inside = runtime.enter();

        let enrolment = Enrolment::load_as(&self.state, MachineRole::Agent)?;
        let (orders, welcome) =
            serve_orders(&enrolment, self.sessions_max, engine.clone(), self.address)?;
        runtime.spawn(orders);
        runtime
            .block_on(async { tokio::time::timeout(START_LIMIT, welcome).await })
            .context("the broker did not welcome the session host in time")??;

        let https = HttpsClient::new(self.tls.client(self.roots.clone())?, DialLimits::default())?;
        let user = User {
            https,
            url: self.gateway_url.url(CONNECTIONS_PATH),
            secret: self.token.clone(),
            marks: self.marks,
            address: self.address,
            engine,
        };
        let (ask, asked) = tokio::sync::mpsc::unbounded_channel();
        runtime.spawn(user.ask_for_sessions(asked));
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
    settings: &DeploymentSettings,
) -> String {
    let (state, sessions, marks) = (place.join("broker"), settings.sessions_max, settings.marks);
    let user = |name: &str, token: &str| {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        let hash = hex::encode(hash.as_ref());
        format!("[[broker.identity.static_tokens]]\nuser = \"{name}\"\ntoken_sha256 = \"{hash}\"\n")
    };
    let marked = (0..marks.users).map(|number| {
        user(&Marks::user(number), &marks.token(token, marks.numbers_of(number).start))
    });
    let users: String = marked.chain([user("bench", token)]).collect();
    format!(
        "[broker]\nlisten = \"{address}\"\npublic_url = \"{url}\"\nserver_names = [\"{HOST}\"]\n\
         state_dir = {state:?}\n\
         [broker.limits]\nreservations_per_user_max = {}\nchannel_queue_max = 16384\n\
         order_answer_timeout_ms = 10000\n\
         [[broker.pools]]\nname = \"{POOL}\"\nsessions_per_host_max = {sessions}\n\
         [[broker.resources]]\nid = \"{DESKTOP}\"\ntitle = \"Bench\"\npool = \"{POOL}\"\nusers = [\"*\"]\n{users}",
        sessions as usize + ASKING_AT_ONCE
    )
}

fn gateway_config(
    place: &Path,
    address: SocketAddr,
    url: &str,
    settings: &DeploymentSettings,
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
         [gateway.tls]\nprefer_aes128 = {aes128}\n[gateway.threads]\n{threads}{}\n\
         [gateway.limits]\nsessions_max = {sessions}\nlobby_connections_max = 16384\n\
         lobby_connections_per_address_max = 16384\nwaiting_max = 16384\n\
         waiting_per_address_max = 16384\nbroker_timeout_ms = 15000\npair_timeout_ms = 20000\n",
        settings.thread_settings.join("\n")
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
