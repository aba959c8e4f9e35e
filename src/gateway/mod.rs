//! The gateway: relays sessions between clients and session hosts that both
//! dialled in. It dials nobody but its broker and, to measure, other gateways.
//!
//! Three kinds of thread (see `LIFECYCLE.md`): [`lobby`] greets, [`relay`]
//! relays, [`control`] talks to the broker.

mod admin;
pub mod control;
mod descriptors;
mod dumps;
pub mod health;
pub mod lobby;
pub mod memory;
pub mod relay;
mod reload;
pub mod shared;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

pub use self::admin::Desk;
use self::control::{Parts, Question};
use self::dumps::DumpWriter;
use self::health::Ailment;
use self::memory::MemoryNeed;
use self::relay::ring::{Features, RingSettings};
use self::relay::{Command, Events, RelayWorker, WithinSettings, WorkerSettings};
use self::reload::Certificates;
use self::shared::{Phase, Shared};
use crate::channel::client::ChannelSettings;
use crate::channel::enroll::Enrolment;
use crate::config::gateway::{GatewayConfig, RingFeatures};
use crate::config::reload::Reloader;
use crate::core::codes::Code;
use crate::dial::{DialLimits, Dialer};
use crate::observe::close_reason::CloseReason;
use crate::observe::histogram_folder::HistogramFolder;
use crate::observe::timeline::Timeline;
use crate::observe::{admin_socket, service};
use crate::tls::identity::read_roots;
use crate::wire::enroll::MachineRole;

const MIB: u64 = 1024 * 1024;
/// Questions to the control thread that may wait.
const QUESTIONS_MAX: usize = 64;
/// How often a stopping gateway looks whether its sessions are gone.
const DRAIN_POLL: Duration = Duration::from_millis(50);
/// What the lobby may take to tell the clients that still wait.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How often the threads are looked after.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// What an orderly end may take when a thread has failed.
const FAILING_MAX: Duration = Duration::from_secs(20);
/// What delivering the last bytes may take beyond its own limit.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
    phase_changes: mpsc::Sender<Phase>,
    lobby: Vec<JoinHandle<()>>,
    control: JoinHandle<anyhow::Result<()>>,
}

impl Gateway {
    /// Starts all threads and opens the port. The broker need not be there
    /// yet: until it is, clients are told so.
    ///
    /// # Errors
    /// Whatever keeps it from working: enrolment, certificates, the port, the
    /// kernel's io_uring.
    pub fn start(config: GatewayConfig, timeline: Option<Timeline>) -> anyhow::Result<Self> {
        let enrolment = Enrolment::load_as(&config.state_dir, MachineRole::Gateway)?;
        let id = enrolment.record.name.parse().context("the name in the enrolment")?;
        let prober = prober(&config, &enrolment)?;
        let certificates = Certificates::load(&config, enrolment)?;
        let tls = config.tls.server_showing(Arc::clone(&certificates.port))?;
        let channel = channel_settings(&config, &certificates)?;

        let listeners = lobby::bind(config.listen, config.threads.lobby_threads)
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listeners.first().context("no listener")?.local_addr()?;
        let events = Events::new()?;
        let workers = start_workers(&config, &events)?;
        let (phase, phase_seen) = watch::channel(Phase::Running);
        let (shared, requests) =
            Shared::new(id, config, certificates, tls, workers, phase_seen, timeline);

        let (questions, questions_asked) = mpsc::channel(QUESTIONS_MAX);
        let (phase_changes, changes) = mpsc::channel(4);
        // First, because it may fail: whatever was started until then ends
        // when what it has is dropped.
        let (lobby, meters) = lobby::start(listeners, &shared)?;
        let dumps = DumpWriter::start(histogram_folder(&shared))?;
        let parts = Parts {
            shared: Arc::clone(&shared),
            requests,
            questions: questions_asked,
            events,
            meters,
            dumps,
            channel,
            prober,
            phase_changes: changes,
            phase,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let control = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || runtime.block_on(control::run(parts)))?;
        tracing::info!(gateway = %shared.id, %address, url = shared.config().url, "Gateway started");
        Ok(Self { address, shared, questions, phase_changes, lobby, control })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counters and tables, for whoever shows them.
    #[must_use]
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where questions about this gateway are answered.
    #[must_use]
    pub fn desk(&self) -> Desk {
        Desk::new(Arc::clone(&self.shared), self.questions.clone())
    }

    /// Whether all threads do their work.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.ailment().is_none()
    }

    /// What keeps this gateway from working, if anything does. It does not get
    /// well again: shut it down and start another.
    #[must_use]
    pub fn ailment(&self) -> Option<Ailment> {
        if self.control.is_finished() {
            return Some(Ailment::ControlEnded);
        }
        self.shared.ailment()
    }

    /// Resolves when something keeps this gateway from working.
    async fn falls_ill(&self) -> Ailment {
        loop {
            if let Some(ailment) = self.ailment() {
                return ailment;
            }
            sleep(HEALTH_INTERVAL).await;
        }
    }

    /// Ends in good order: no new legs from now on; live sessions, and clients
    /// whose host is on its way, go on for `grace`; what is left ends with one
    /// reason, and all threads are joined.
    pub async fn shutdown(self, grace: Duration) {
        let _ = self.phase_changes.send(Phase::Draining).await;
        let shared = &self.shared;
        warn_clients(shared, grace);
        wait_at_most(grace, || shared.places_taken() == 0).await;
        if shared.refuse_all_waiting(&Code::GatewayDraining.into()) > 0 {
            let lobby = &shared.counters.connections_now;
            wait_at_most(LAST_ANSWERS, || lobby.load(Relaxed) == 0).await;
        }
        for worker in &shared.workers {
            // A full queue drains within a turn of the worker.
            let stop = || worker.tell(Command::Stop(CloseReason::GatewayShutdown)).is_ok();
            wait_at_most(STOP_MARGIN, || worker.is_finished() || stop()).await;
        }
        let limit = Duration::from_millis(shared.config().limits.drain_output_ms) + STOP_MARGIN;
        wait_at_most(limit, || shared.workers.iter().all(RelayWorker::is_finished)).await;
        // Only now has every worker told everything, which the control thread
        // passes on before it ends.
        let _ = self.phase_changes.send(Phase::Stopped).await;
        let joined = tokio::task::spawn_blocking(move || {
            for worker in &self.shared.workers {
                if worker.is_finished() {
                    worker.join();
                } else {
                    tracing::error!("A relay worker does not stop");
                }
            }
            for thread in self.lobby {
                if thread.join().is_err() {
                    tracing::error!("A lobby thread panicked");
                }
            }
            match self.control.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "The control thread failed"),
                Err(_) => tracing::error!("The control thread panicked"),
            }
        });
        if joined.await.is_err() {
            tracing::error!("Joining the gateway's threads failed");
        }
    }
}

/// Tells people whose clients can show it how long their session goes on.
fn warn_clients(shared: &Shared, grace: Duration) {
    if grace.is_zero() {
        return;
    }
    let notice: Arc<str> = format!(
        "This gateway goes out of service. Your session ends in {} s: save your work, and \
         connect again to go on.",
        grace.as_secs()
    )
    .into();
    for worker in &shared.workers {
        // Who is not told now sees it end.
        let _ = worker.tell(Command::Notice(Arc::clone(&notice)));
    }
}

/// Waits until `is_done`, or until the time is up.
async fn wait_at_most(limit: Duration, is_done: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_done() && Instant::now() < deadline {
        sleep(DRAIN_POLL).await;
    }
}

fn channel_settings(
    config: &GatewayConfig,
    certificates: &Certificates,
) -> anyhow::Result<ChannelSettings> {
    let enrolment = certificates.enrolment();
    let broker = enrolment.record.broker_url.parse().context("the broker's URL")?;
    let shown = Arc::clone(&certificates.machine);
    let tls = config.tls.client_showing(enrolment.roots.clone(), shown)?;
    let dialer = Dialer::new(tls, DialLimits::default());
    let mut settings = ChannelSettings::new(broker, dialer, MachineRole::Gateway);
    settings.rules.heartbeat_interval_ms = config.channel.heartbeat_interval_ms;
    settings.rules.heartbeat_timeout_ms = config.channel.heartbeat_timeout_ms;
    settings.backoff_base_ms = config.channel.reconnect_base_ms;
    settings.backoff_cap_ms = config.channel.reconnect_cap_ms;
    Ok(settings)
}

fn prober(config: &GatewayConfig, enrolment: &Enrolment) -> anyhow::Result<Dialer> {
    let mut roots = enrolment.roots.clone();
    roots.extend(read_roots(config.peer_ca.as_deref())?.roots);
    Ok(Dialer::new(config.tls.client(roots)?, DialLimits::default()))
}

fn histogram_folder(shared: &Shared) -> HistogramFolder {
    let config = shared.config();
    let settings = &config.histograms;
    let (file_bytes_max, files_max) = (settings.file_bytes_max, settings.files_max as usize);
    HistogramFolder::new(config.histogram_folder(), shared.id.as_str(), file_bytes_max, files_max)
}

fn start_workers(config: &GatewayConfig, events: &Events) -> anyhow::Result<Vec<RelayWorker>> {
    let count = config.relay_workers();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let features = match config.threads.ring_features {
        RingFeatures::Probed => Features::probe()?,
        RingFeatures::Linux61 => Features::LINUX_6_1,
    };
    tracing::info!(
        kernel = kernel(),
        features = ?config.threads.ring_features,
        bounded_receive = features.bounded_receive,
        "Relay ring"
    );
    (0..count)
        .map(|index| {
            let settings = WorkerSettings {
                index,
                core: config.threads.pin.then_some(index % cores),
                ring: RingSettings {
                    rx_buffers: config.threads.rx_buffers,
                    features,
                    ..RingSettings::default()
                },
                output_slots: config.threads.output_slots as usize,
                within: WithinSettings::default(),
                limits: config.limits,
            };
            Ok(RelayWorker::start(settings, events)?)
        })
        .collect()
}

/// The kernel's release, for people: what it can do is tried out.
pub(crate) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn tell_memory(config: &GatewayConfig) {
    let memory = MemoryNeed::of(config);
    tracing::info!(
        sessions_max = config.limits.sessions_max,
        lobby_connections_max = config.limits.lobby_connections_max,
        workers = config.relay_workers(),
        typical_mib = memory.typical / MIB,
        // All peers at once not reading what they have asked for.
        at_most_mib = memory.at_most / MIB,
        "Memory needed at these limits, besides the kernel's socket buffers"
    );
}

/// `ringway gateway --config FILE`
pub fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        // Before anybody could send it: unhandled, it would end the process.
        let mut wants_dump = signal(SignalKind::user_defined1())?;
        let (reloader, config) = Reloader::start::<GatewayConfig>(path).await?;
        tell_memory(&config);
        descriptors::make_room(&config);
        let (admin_path, peers) = (config.admin_socket(), config.admin_peers());
        let gateway = Gateway::start(config, None)?;
        println!("listening on {}", gateway.address());
        let admin = admin_socket::bind(&admin_path, &peers)
            .with_context(|| format!("cannot open admin socket {}", admin_path.display()))?;
        let desk = gateway.desk();
        let admin = tokio::spawn(admin_socket::serve(admin, peers, move |_uid, request| {
            let desk = desk.clone();
            async move { desk.answer(request).await }
        }));
        let desk = gateway.desk();
        let dumps = tokio::spawn(async move {
            while wants_dump.recv().await.is_some() && desk.dump_histograms().await.is_ok() {}
        });
        let desk = gateway.desk();
        // The watchdog is fed while the control thread answers.
        let alive = async || {
            if desk.ask(Question::CloseReasons).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let shared = gateway.shared();
        let reloading = reloader.run(&shared.config_status, async |new| reload::adopt(shared, new));
        let ailment = tokio::select! {
            never = reloading => match never {},
            stopped = service::run_until_stopped(alive) => stopped.map(|()| None)?,
            ailment = gateway.falls_ill() => Some(ailment),
        };
        admin.abort();
        dumps.abort();
        let _ = std::fs::remove_file(&admin_path);
        let Some(ailment) = ailment else {
            let grace_ms = gateway.shared().config().limits.shutdown_grace_ms;
            gateway.shutdown(Duration::from_millis(grace_ms)).await;
            return Ok(ExitCode::SUCCESS);
        };
        tracing::error!(%ailment, "The gateway cannot go on; its sessions end");
        // A thread that hangs may keep this from ending: then it ends here.
        let _ = timeout(FAILING_MAX, gateway.shutdown(Duration::ZERO)).await;
        Ok(ExitCode::FAILURE)
    });
    // Waits for no thread that does not end.
    runtime.shutdown_background();
    outcome
}
