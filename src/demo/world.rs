//! The embedded world: a broker, gateways and an agent in this process, joined
//! by real TLS over loopback. `ringway demo` shows it; the tests put it to
//! work with other targets, limits and faults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use rustls::RootCertStore;
use tokio::runtime::Runtime;

use super::stage::{ReservedPort, ScratchDirectory};
use crate::agent::{Agent, Target};
use crate::broker::Broker;
use crate::broker::orchestrate::HOST_ENDED;
use crate::channel::enroll::{EnrolSettings, enroll};
use crate::config::agent::AgentConfig;
use crate::config::broker::{BrokerConfig, Identity};
use crate::config::gateway::GatewayConfig;
use crate::core::ids::{HostId, PoolId, SessionId};
use crate::dial::DialLimits;
use crate::gateway::Gateway;
use crate::observe::timeline::Timeline;
use crate::tls::identity::read_roots;
use crate::wire::admin::{BrokerSnapshot, SessionView};
use crate::wire::enroll::MachineRole;

/// The name of everything here: certificates are for it, and it resolves to
/// loopback everywhere.
pub const HOST: &str = "localhost";
/// The one pool and the one desktop.
pub const POOL: &str = "demo";
pub const DESKTOP: &str = "desktop";
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);
/// How long a fresh world may take until all its channels are open.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the threads of a broker that is killed may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a world is made of.
#[expect(missing_debug_implementations, reason = "a timeline is a closure")]
pub struct WorldSettings {
    pub gateways: usize,
    pub sessions_per_host_max: u32,
    pub identity: Identity,
    pub timeline: Option<Timeline>,
    /// Changes the configurations before the roles start.
    pub adjust_broker: fn(&mut BrokerConfig),
    pub adjust_gateway: fn(&mut GatewayConfig),
    pub adjust_agent: fn(&mut AgentConfig),
}

impl Default for WorldSettings {
    fn default() -> Self {
        Self {
            gateways: 2,
            sessions_per_host_max: 20,
            identity: Identity::default(),
            timeline: None,
            adjust_broker: |_| {},
            adjust_gateway: |_| {},
            adjust_agent: |_| {},
        }
    }
}

/// A running world.
#[expect(missing_debug_implementations, reason = "its settings hold a closure")]
pub struct World {
    pub broker: Broker,
    pub broker_config: BrokerConfig,
    pub gateways: Vec<Gateway>,
    pub agents: Vec<Agent>,
    broker_threads: BrokerThreads,
    settings: WorldSettings,
    /// Ports stand in URLs and certificates: they stay ours between the end
    /// of a role and its next start.
    ports: Vec<ReservedPort>,
    directory: ScratchDirectory,
}

impl World {
    /// Starts broker and gateways, without a session host.
    ///
    /// # Errors
    /// Whatever keeps a role from starting.
    pub async fn start(settings: WorldSettings) -> anyhow::Result<Self> {
        let directory = ScratchDirectory::new()?;
        let port = ReservedPort::new()?;
        let broker_config =
            broker_config(&directory.path().join("broker"), port.address, &settings)?;
        let broker_threads = BrokerThreads::new()?;
        let broker = broker_threads.start(&broker_config, &settings).await?;
        let mut world = Self {
            broker,
            broker_config,
            gateways: Vec::new(),
            agents: Vec::new(),
            broker_threads,
            settings,
            ports: vec![port],
            directory,
        };
        for number in 1..=world.settings.gateways {
            world.add_gateway(number).await?;
        }
        world
            .until("the gateways are connected", |world, snapshot| {
                snapshot.gateways.len() == world.gateways.len()
                    && world.gateways.iter().all(knows_every_gateway(world.gateways.len()))
            })
            .await?;
        Ok(world)
    }

    /// The `url` of the broker.
    #[must_use]
    pub fn broker_url(&self) -> &str {
        &self.broker_config.public_url
    }

    /// What trusts everything here.
    ///
    /// # Errors
    /// When the CA's file cannot be read.
    pub fn roots(&self) -> anyhow::Result<RootCertStore> {
        Ok(read_roots(Some(&self.ca_file()?))?)
    }

    /// The broker's CA as a file, for whoever wants to trust it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn ca_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.directory.path().join("ca.pem");
        std::fs::write(&path, self.broker.ca_pem())?;
        Ok(path)
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Enrols and starts a session host, and waits until the broker has it.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn add_host(&mut self, name: &str, target: Arc<dyn Target>) -> anyhow::Result<()> {
        let state_dir = self.enrol(name, MachineRole::Agent).await?;
        let mut config: AgentConfig =
            toml::from_str(&format!("state_dir = {:?}", state_dir.display().to_string()))?;
        // All hosts share this machine, and its load.
        config.health.load_per_core_max = 0.0;
        (self.settings.adjust_agent)(&mut config);
        let agent = Agent::start(&config, target, self.settings.timeline.clone())?;
        self.agents.push(agent);
        let host: HostId = name.parse()?;
        self.until("the session host is connected", |_, snapshot| {
            snapshot.hosts.iter().any(|h| h.host == host && h.connected)
        })
        .await
    }

    async fn add_gateway(&mut self, number: usize) -> anyhow::Result<()> {
        let state_dir = self.enrol(&format!("gw-{number}"), MachineRole::Gateway).await?;
        let port = ReservedPort::new()?;
        let address = port.address;
        self.ports.push(port);
        let mut config: GatewayConfig = toml::from_str(&format!(
            "listen = \"{address}\"\nurl = \"https://{HOST}:{}\"\nstate_dir = {:?}\n\
             threads = {{ relay_workers = 1, pin = false, probe_interval_ms = 500 }}",
            address.port(),
            state_dir.display().to_string(),
        ))?;
        (self.settings.adjust_gateway)(&mut config);
        self.gateways.push(Gateway::start(config, self.settings.timeline.clone())?);
        Ok(())
    }

    /// Ends the broker the way a crash does: without a goodbye, its
    /// connections cut.
    ///
    /// # Errors
    /// When its threads do not end.
    pub async fn kill_broker(&mut self) -> anyhow::Result<()> {
        let runtime = self.broker_threads.0.take().context("the broker is dead already")?;
        // Waits for threads, which only a thread of its own may do.
        let killed = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(KILL_TIMEOUT));
        killed.await.context("killing the broker")
    }

    /// Starts the broker again on its port and with its state, after
    /// [`World::kill_broker`].
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn revive_broker(&mut self) -> anyhow::Result<()> {
        self.broker_threads = BrokerThreads::new()?;
        self.broker = self.broker_threads.start(&self.broker_config, &self.settings).await?;
        Ok(())
    }

    /// Enrols a machine, as `ringway enroll` does. Returns its state directory.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn enrol(&self, name: &str, role: MachineRole) -> anyhow::Result<PathBuf> {
        let pool: Option<PoolId> = match role {
            MachineRole::Agent => Some(POOL.parse()?),
            MachineRole::Gateway => None,
        };
        let token = self.broker.create_enrol_token(role, pool, Duration::from_secs(60), 1).await?;
        let state_dir = self.directory.path().join(name);
        enroll(&EnrolSettings {
            broker: self.broker_url().parse()?,
            token: token.parse()?,
            role,
            state_dir: state_dir.clone(),
            name: name.to_owned(),
            server_names: if role == MachineRole::Gateway { vec![HOST.into()] } else { vec![] },
            ca: None,
            force: false,
            limits: DialLimits::default(),
        })
        .await
        .with_context(|| format!("enrolling {name}"))?;
        Ok(state_dir)
    }

    /// Waits until the world looks as wanted.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&Self, &BrokerSnapshot) -> bool,
    ) -> anyhow::Result<()> {
        let reached = async {
            while !wanted(self, &self.broker.snapshot().await) {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(READY_TIMEOUT, reached)
            .await
            .with_context(|| format!("waiting until {what}"))
    }

    /// What the broker keeps of a session that is over, once it is.
    ///
    /// # Errors
    /// When it is not over in time.
    pub async fn ended(&self, session: SessionId) -> anyhow::Result<SessionView> {
        let ended = async {
            loop {
                match self.broker.explain(session).await {
                    // The host may tell first; the gateway knows why.
                    Some((view, _)) if view.end.as_deref().is_some_and(|e| e != HOST_ENDED) => {
                        return view;
                    }
                    _ => tokio::time::sleep(POLL).await,
                }
            }
        };
        tokio::time::timeout(READY_TIMEOUT, ended)
            .await
            .with_context(|| format!("waiting until session {session} is over"))
    }

    /// Ends everything in order and removes its files.
    pub async fn shutdown(self) {
        // Gateways first: agents would wait for sessions that are still live.
        let gateways = self.gateways.into_iter().map(|gateway| gateway.shutdown(Duration::ZERO));
        futures_util::future::join_all(gateways).await;
        for agent in self.agents {
            agent.shutdown().await;
        }
        self.broker.shutdown().await;
    }
}

/// A gateway that has a round trip to each of `count` gateways but itself.
fn knows_every_gateway(count: usize) -> impl Fn(&Gateway) -> bool {
    move |gateway| {
        let shared = gateway.shared();
        shared.gateways_known.load(Relaxed) >= count
            && shared.gateways_measured.load(Relaxed) + 1 >= count
    }
}

fn broker_config(
    state_dir: &Path,
    address: SocketAddr,
    settings: &WorldSettings,
) -> anyhow::Result<BrokerConfig> {
    let mut config: BrokerConfig = toml::from_str(&format!(
        r#"
        listen = "{address}"
        public_url = "https://{HOST}:{port}"
        server_names = ["{HOST}"]
        state_dir = {state_dir:?}
        allow_any_server_name = true
        workspace = "demo"
        pools = [{{ name = "{POOL}", sessions_per_host_max = {max} }}]
        resources = [{{ id = "{DESKTOP}", title = "Demo Desktop", pool = "{POOL}", users = ["*"] }}]
        "#,
        port = address.port(),
        state_dir = state_dir.display().to_string(),
        max = settings.sessions_per_host_max,
    ))?;
    config.identity = settings.identity.clone();
    // One user opens many sessions at once here.
    config.limits.reservations_per_user_max = 1_000;
    (settings.adjust_broker)(&mut config);
    Ok(config)
}

/// The threads of the broker, its own so that it can be killed.
struct BrokerThreads(Option<Runtime>);

impl BrokerThreads {
    fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("broker")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    async fn start(
        &self,
        config: &BrokerConfig,
        settings: &WorldSettings,
    ) -> anyhow::Result<Broker> {
        let runtime = self.0.as_ref().context("the broker has no threads")?;
        runtime.spawn(Broker::start(config.clone(), settings.timeline.clone())).await?
    }
}

impl Drop for BrokerThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
