//! The broker: machines' channels, enrolment, placement, tickets, feed.
//!
//! One port ([`http`]) takes everything; one task
//! ([`orchestrate`]) owns the live state; one database ([`store`]) keeps what
//! must not be lost; [`ca`] says who is a machine and [`identity`] who is a
//! user.

pub mod admin;
mod admin_https;
pub mod audit;
pub mod ca;
pub mod channels;
pub mod enroll;
pub mod feed;
pub mod http;
pub mod identity;
pub mod orchestrate;
pub mod place;
mod reload;
pub mod revoke;
mod start_command;
pub mod store;
pub mod ticket_keys;
pub mod token;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::config::broker::BrokerConfig;
use crate::config::current::Current;
use crate::config::reload::{ConfigStatus, Reloader};
use crate::config::state_dir::StateDir;
use crate::core::attempts::Attempts;
use crate::core::clock::UnixMillis;
use crate::core::codes::Code;
use crate::core::ids::{HostId, PoolId, SessionId};
use crate::core::selection::Explain;
use crate::observe::timeline::{Teller, Timeline};
use crate::observe::{admin_socket, service};
use crate::tls::identity::{read_chain, read_key};
use crate::tls::listener::{Peer, TlsListener};
use crate::tls::live_certificate::LiveCertificate;
use crate::wire::admin::{BrokerSnapshot, SessionView};
use crate::wire::enroll::MachineRole;
use crate::wire::rdp_signature::Signer;
use admin::Operator;
use audit::AuditLog;
use ca::Authority;
use identity::Judge;
use store::Store;
use ticket_keys::TicketKeys;

/// In the state directory.
pub const DATABASE_FILE: &str = "broker.sqlite3";
/// Sessions of an earlier run whose users are looked up: placed so long ago at
/// the most, and so many.
const PLACED_BEFORE_MS: u64 = 7 * 24 * 3_600_000;
const PLACED_BEFORE_MAX: usize = 100_000;
/// How long goodbyes and answers under way may take at a stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What every request handler needs.
#[derive(Debug)]
pub struct Shared {
    config: Current<BrokerConfig>,
    pub config_status: ConfigStatus,
    pub address: SocketAddr,
    pub started_at: UnixMillis,
    pub store: Store,
    pub authority: Authority,
    pub identity: Judge,
    /// Signs .rdp files.
    pub signer: Current<Signer>,
    /// Shown by the port.
    certificate: Arc<LiveCertificate>,
    wrong_admin_tokens: Mutex<Attempts>,
    pub feed: feed::FeedState,
    pub audit: AuditLog,
    pub rotate_keys: mpsc::Sender<ticket_keys::Order>,
    pub core: orchestrate::Handle,
    pub teller: Teller,
    channel_numbers: AtomicU64,
}

impl Shared {
    /// What is in force at this moment. A reload replaces it as a whole: who
    /// decides something decides by one of them.
    #[must_use]
    pub fn config(&self) -> Arc<BrokerConfig> {
        self.config.get()
    }

    fn next_channel_number(&self) -> orchestrate::ChannelNumber {
        self.channel_numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    stop: oneshot::Sender<()>,
    port: JoinHandle<std::io::Result<()>>,
    admin: JoinHandle<()>,
    admin_socket: PathBuf,
}

impl Broker {
    /// Starts everything; returns when the port is open.
    ///
    /// # Errors
    /// What could not be opened, and why.
    pub async fn start(config: BrokerConfig, timeline: Option<Timeline>) -> anyhow::Result<Self> {
        let now = UnixMillis::now();
        let state = StateDir::open(&config.state_dir)?;
        let authority = Authority::open(&state, config.workspace.as_str(), now)?;
        let store = Store::open(&state.file(DATABASE_FILE))
            .with_context(|| format!("cannot open {DATABASE_FILE} in the state directory"))?;
        let signer = Current::new(rdp_signer(&config, &authority, &state, now)?);
        let request_timeout = Duration::from_millis(config.limits.identity_timeout_ms);
        let identity = Judge::new(&config.identity, config.tls, request_timeout)?;

        let certificate = served_certificate(&config, &authority, now)?;
        let tls = Arc::new(server_tls(&config, &authority, Arc::clone(&certificate))?);
        let listener = TlsListener::bind(config.listen, tls, config.limits.listener())
            .await
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.address();
        let admin_socket = config.admin_socket();
        let admin_listener = admin_socket::bind(&admin_socket, &config.admin_peers())
            .with_context(|| format!("cannot open admin socket {}", admin_socket.display()))?;
        let peers = config.admin_peers();

        let teller = Teller::new("broker", timeline);
        let keys = TicketKeys::open(&config, &state, now)?;
        let (audit, _writer) = AuditLog::start(store.clone(), store.audit_head().await?);
        let since = UnixMillis(now.0.saturating_sub(PLACED_BEFORE_MS));
        let start = orchestrate::Start {
            keys: keys.current(),
            audit: audit.clone(),
            teller: teller.clone(),
            hosts: enrolled_hosts(&store).await?,
            drained: store.drained().await?,
            drained_labels: store.drained_labels().await?,
            assignments: store.assignments().await?,
            placed_before: store.placed_before(since, PLACED_BEFORE_MAX).await?,
            revoked: store.revoked_sessions(now).await?,
        };
        let core = orchestrate::start(&config, start, store.clone());
        let shared = Arc::new(Shared {
            rotate_keys: ticket_keys::keep(keys, core.clone(), audit.clone()),
            core,
            audit,
            config: Current::new(config),
            config_status: ConfigStatus::default(),
            address,
            started_at: now,
            store,
            authority,
            identity,
            signer,
            certificate,
            wrong_admin_tokens: Mutex::new(Attempts::new(admin_https::ATTEMPTS)),
            feed: feed::FeedState::open(&state)?,
            teller,
            channel_numbers: AtomicU64::new(1),
        });

        let (stop, stopping) = oneshot::channel::<()>();
        let app = http::router(Arc::clone(&shared)).into_make_service_with_connect_info::<Peer>();
        let port = tokio::spawn(async move {
            axum::serve(listener, app)
                .with_graceful_shutdown(async {
                    let _stop_or_dropped = stopping.await;
                })
                .await
        });
        let admin = {
            let shared = Arc::clone(&shared);
            tokio::spawn(admin_socket::serve(admin_listener, peers, move |uid, request| {
                let shared = Arc::clone(&shared);
                async move { admin::answer(&shared, &Operator::Local { uid }, request).await }
            }))
        };
        tracing::info!(%address, public_url = %shared.config().public_url, "The broker is up");
        Ok(Self { shared, stop, port, admin, admin_socket })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Its CA, which machines and clients have to trust.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.shared.authority.pem()
    }

    /// A new enrolment token.
    ///
    /// # Errors
    /// When the pool does not fit the role or is not declared, or the database
    /// fails.
    pub async fn create_enrol_token(
        &self,
        role: MachineRole,
        pool: Option<PoolId>,
        ttl: Duration,
        uses: u32,
    ) -> anyhow::Result<Zeroizing<String>> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let new = enroll::NewToken { role, pool, ttl_ms, uses, server_names: Vec::new() };
        if let Some(problem) = admin::token_problem(&self.shared, &new) {
            anyhow::bail!(problem);
        }
        let (pin, now) = (self.shared.authority.pin(), UnixMillis::now());
        let token = enroll::create_token(&self.shared.store, pin, new, now).await?;
        Ok(Zeroizing::new(token.text().expose().to_owned()))
    }

    /// Hosts, gateways and sessions at this moment.
    pub async fn snapshot(&self) -> BrokerSnapshot {
        self.shared.core.snapshot().await
    }

    /// What is known of a session, live or over, and why it is where it is.
    pub async fn explain(&self, session: SessionId) -> Option<(SessionView, Explain)> {
        let (answer, explained) = oneshot::channel();
        self.shared.core.send(orchestrate::Command::Explain { session, answer }).await;
        explained.await.ok().flatten()
    }

    /// Says goodbye on all channels and stops. Live sessions do not notice.
    pub async fn shutdown(self) {
        let Self { shared, stop, mut port, admin, admin_socket } = self;
        admin.abort();
        let _nothing_to_remove = std::fs::remove_file(&admin_socket);
        let _port_ended_already = stop.send(());
        let (done, goodbyes_queued) = oneshot::channel();
        shared.core.send(orchestrate::Command::Stop { done }).await;
        let _core_ended_already = goodbyes_queued.await;
        if timeout(STOP_GRACE, &mut port).await.is_err() {
            port.abort();
        }
        shared.audit.finish(STOP_GRACE).await;
        tracing::info!("The broker has stopped");
    }
}

/// Runs the role until SIGTERM or SIGINT.
///
/// # Errors
/// When the configuration cannot be used or something cannot be opened.
pub fn run(path: &Path) -> anyhow::Result<ExitCode> {
    // Two workers: the work is small messages; TLS handshakes are the peak.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (reloader, config) = Reloader::start::<BrokerConfig>(path).await?;
        let broker = Broker::start(config, None).await?;
        let shared = &broker.shared;
        // A broker whose owner task hangs is restarted.
        let serving = service::run_until_stopped(async || drop(shared.core.snapshot().await));
        let reloading =
            reloader.run(&shared.config_status, async |new| reload::adopt(shared, new).await);
        tokio::select! {
            stopped = serving => stopped?,
            never = reloading => match never {},
        }
        broker.shutdown().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// The certificate of the port: configured, or issued by our own CA.
fn served_certificate(
    config: &BrokerConfig,
    authority: &Authority,
    now: UnixMillis,
) -> anyhow::Result<Arc<LiveCertificate>> {
    let (chain, key) = match (&config.tls_certificate, &config.tls_key) {
        (Some(certificate), Some(key)) => (read_chain(certificate)?, read_key(key)?),
        _ => authority.issue_server(&config.server_names, now)?,
    };
    Ok(config.tls.certificate(chain, key)?)
}

fn server_tls(
    config: &BrokerConfig,
    authority: &Authority,
    certificate: Arc<LiveCertificate>,
) -> anyhow::Result<rustls::ServerConfig> {
    let mut tls =
        config.tls.server_asking_for_client_certificate(certificate, authority.roots()?)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

fn rdp_signer(
    config: &BrokerConfig,
    authority: &Authority,
    state: &StateDir,
    now: UnixMillis,
) -> anyhow::Result<Signer> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    Ok(match &config.signing {
        Some(signing) => {
            let key = Zeroizing::new(read(&signing.key)?);
            Signer::from_pem(&read(&signing.certificate)?, &key)
                .context("broker.signing cannot be used")?
        }
        None => {
            let pair = authority.signing_pair(state, now)?;
            Signer::from_pem(&pair.certificate_pem, &pair.key_pem)?
        }
    })
}

async fn enrolled_hosts(store: &Store) -> anyhow::Result<Vec<(HostId, PoolId)>> {
    let machines = store.machines().await?;
    let hosts = machines.into_iter().filter(|m| m.role == MachineRole::Agent && !m.revoked);
    Ok(hosts.filter_map(|m| Some((m.name.parse().ok()?, m.pool?))).collect())
}

/// Random bytes of the system.
///
/// # Errors
/// [`Code::Internal`] when it has none: nothing that needs them may go on.
fn random_bytes<const N: usize>() -> Result<[u8; N], Code> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Code::Internal)?;
    Ok(bytes)
}
