//! `ringway gateway` as a process of its own, for what a process has limits on.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway::core::codes::{Code, Refusal};
use ringway::core::ids::GatewayId;
use ringway::wire::channel::GatewayEntry;
use ringway::wire::enroll::MachineRole;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use rustls::ClientConfig;
use tempfile::TempDir;

use super::ca::TestCa;
use super::fake_broker::FakeBroker;
use super::ports::ReservedPort;
use super::programs::ringway;
use super::wait::{until, within};
use super::world::{Pair, pair_at};

/// The kernel counts for users in hundredths of a second (`USER_HZ`).
const MS_PER_TICK: u64 = 10;

pub struct GatewayProcess {
    pub id: GatewayId,
    pub port: ReservedPort,
    child: Child,
    log: Arc<Mutex<String>>,
    state_dir: TempDir,
}

/// Enrolled and configured, and not started yet.
pub struct GatewaySetup {
    id: GatewayId,
    port: ReservedPort,
    state_dir: TempDir,
}

impl GatewaySetup {
    /// `limits` are lines of TOML for `[gateway.limits]`, and tables after it.
    pub fn new(name: &str, ca: &TestCa, broker_url: &str, limits: &str) -> Self {
        let state_dir = tempfile::tempdir().unwrap();
        ca.enrol(state_dir.path(), name, MachineRole::Gateway, broker_url);
        let port = ReservedPort::new();
        let text = format!(
            "[gateway]\nlisten = \"{}\"\nurl = \"{}\"\nstate_dir = {:?}\n\
             [gateway.threads]\nrelay_workers = 1\npin = false\n\
             [gateway.limits]\n{limits}\n",
            port.address(),
            port.url(),
            state_dir.path(),
        );
        let setup = Self { id: name.parse().unwrap(), port, state_dir };
        std::fs::write(setup.config(), text).unwrap();
        setup
    }

    fn config(&self) -> PathBuf {
        self.state_dir.path().join("gateway.toml")
    }

    /// The command that runs it, behind the words of another that changes what
    /// it may do.
    pub fn command(&self, through: &[&str]) -> Command {
        let mut command = match through {
            [] => ringway(),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(ringway().get_program());
                command
            }
        };
        command.arg("gateway").arg("--config").arg(self.config()).env("RINGWAY_LOG", "info");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

impl GatewayProcess {
    /// `descriptors` is its RLIMIT_NOFILE; `limits` as in [`GatewaySetup::new`].
    pub fn start(ca: &TestCa, broker_url: &str, descriptors: u64, limits: &str) -> Self {
        Self::start_as("gw-process", ca, broker_url, descriptors, limits)
    }

    pub fn start_as(
        name: &str,
        ca: &TestCa,
        broker_url: &str,
        descriptors: u64,
        limits: &str,
    ) -> Self {
        let setup = GatewaySetup::new(name, ca, broker_url, limits);
        Self::run(setup, descriptors, "info")
    }

    /// One that logs more, or less, than usual.
    pub fn start_logging(ca: &TestCa, broker_url: &str, level: &str) -> Self {
        let setup = GatewaySetup::new("gw-process", ca, broker_url, "sessions_max = 10");
        Self::run(setup, 1_024, level)
    }

    fn run(setup: GatewaySetup, descriptors: u64, log_level: &str) -> Self {
        let mut command = setup.command(&[]);
        command.env("RINGWAY_LOG", log_level);
        let limit = Rlimit { current: Some(descriptors), maximum: Some(descriptors) };
        let mut child = command.spawn().unwrap();
        prlimit(Some(Pid::from_child(&child)), Resource::Nofile, limit).unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, into) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = into.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let GatewaySetup { id, port, state_dir } = setup;
        Self { id, port, child, log, state_dir }
    }

    /// Its line of the gateway table.
    pub fn entry(&self) -> GatewayEntry {
        GatewayEntry {
            gateway: self.id.clone(),
            url: self.port.url(),
            connections: 0,
            in_flight: 0,
            capacity: 10,
            draining: false,
            age_ms: 0,
        }
    }

    /// A relayed session, as soon as the gateway has the broker's ticket keys.
    pub async fn first_pair(&self, broker: &FakeBroker, tls: &Arc<ClientConfig>) -> Pair {
        until("the gateway has said hello", || {
            !broker.heard(|heard| (heard.gateway == self.id).then_some(())).is_empty()
        })
        .await;
        let paired = async {
            loop {
                match self.pair(broker, tls).await {
                    Ok(pair) => return pair,
                    // The keys are on their way.
                    Err(refusal) => assert_eq!(refusal.code, Code::TicketUnknownKey),
                }
            }
        };
        within("the first session", paired).await
    }

    /// A relayed session.
    ///
    /// # Errors
    /// What the client was told.
    pub async fn pair(
        &self,
        broker: &FakeBroker,
        tls: &Arc<ClientConfig>,
    ) -> Result<Pair, Refusal> {
        pair_at(broker, &self.id, self.port.address(), tls, tls).await
    }

    pub fn admin_socket(&self) -> PathBuf {
        self.state_dir.path().join("admin.sock")
    }

    /// Where it dumps histograms unless told otherwise.
    pub fn histogram_folder(&self) -> PathBuf {
        self.state_dir.path().join("histograms")
    }

    pub fn state_dir(&self) -> &Path {
        self.state_dir.path()
    }

    pub fn config(&self) -> PathBuf {
        self.state_dir.path().join("gateway.toml")
    }

    /// What `systemctl reload` does.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    pub fn dump_histograms(&self) {
        kill_process(Pid::from_child(&self.child), Signal::USR1).unwrap();
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    pub async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the gateway's process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    pub fn open_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Memory of its own that is resident: not files, not the kernel's.
    pub fn anonymous_bytes(&self) -> u64 {
        let rollup = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(rollup).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
    }

    /// CPU time that it has used, user and system.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // proc(5): the second field is in parentheses and may hold anything.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|i| fields[*i].parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * MS_PER_TICK)
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
