//! Ringway as an operator runs it: separate processes, configuration files,
//! enrolment by token, everything through the command line.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::programs::{ringway, said};
use super::service_manager::{ServiceManager, WATCHDOG};
use super::wait::{free_address, poll};

pub const POOL: &str = "office";
const START_LIMIT: Duration = Duration::from_secs(20);
const COMMAND_LIMIT_S: &str = "30";
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The one session host.
const HOST: &str = "host-1";

/// A broker with one pool and one desktop for everyone, gateways, and one
/// agent beside a session host.
pub struct Deployment {
    folder: TempDir,
    broker_url: String,
    broker: Role,
    gateways: Vec<Role>,
    entry: SocketAddr,
    agent: Option<Role>,
}

/// What an operator decides.
pub struct Plan<'a> {
    pub gateways: usize,
    /// The RDP server of the session host.
    pub target: SocketAddr,
    pub users: &'a [&'a str],
    /// Further lines of the pool, of `[broker.identity]`, of `[gateway.limits]`
    /// and of `[agent]`.
    pub pool: &'a str,
    pub identity: &'a str,
    pub gateway_limits: &'a str,
    pub agent: &'a str,
    /// Whether the session host is on.
    pub host_is_on: bool,
}

impl<'a> Plan<'a> {
    pub const fn new(gateways: usize, target: SocketAddr, users: &'a [&'a str]) -> Self {
        let none = "";
        Self {
            gateways,
            target,
            users,
            pool: none,
            identity: none,
            gateway_limits: none,
            agent: none,
            host_is_on: true,
        }
    }
}

/// A running role and what systemd would be to it.
struct Role {
    process: Process,
    manager: ServiceManager,
}

impl Deployment {
    pub fn start(gateways: usize, target: SocketAddr, users: &[&str]) -> Self {
        Self::start_as(&Plan::new(gateways, target, users))
    }

    /// Starts all of it, in the order in which an operator would.
    pub fn start_as(plan: &Plan<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let address = free_address();
        let broker_url = format!("https://localhost:{}", address.port());
        write_config(place, "broker", &broker_config(place, address, &broker_url, plan));
        let broker = Role::start(place, "broker", "broker");

        let (gateways, addresses): (Vec<_>, Vec<_>) = (1..=plan.gateways)
            .map(|number| start_gateway(place, &broker_url, &format!("gw-{number}"), plan))
            .unzip();
        enrol(place, &broker_url, "agent", HOST);
        let (state, target, further) = (place.join(HOST), plan.target, plan.agent);
        let config = format!("[agent]\nstate_dir = {state:?}\ntarget = \"{target}\"\n{further}\n");
        write_config(place, HOST, &config);
        let entry = addresses[0];
        let mut deployment = Self { folder, broker_url, broker, gateways, entry, agent: None };
        if plan.host_is_on {
            deployment.start_agent();
        }
        for role in deployment.gateways.iter().chain(&deployment.agent) {
            let opened = poll(START_LIMIT, || role.events("Opened the channel").pop());
            assert!(opened.is_some(), "no channel to the broker\n{}", deployment.logs());
        }
        deployment
    }

    /// Switches the session host on.
    pub fn start_agent(&mut self) {
        self.agent = Some(Role::start(self.folder.path(), "agent", HOST));
    }

    /// Switches the session host off, without a word.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// Asks the first gateway to stop and does not wait.
    pub fn take_out_first_gateway(&self) {
        self.gateways[0].process.terminate();
    }

    /// `host:port` of the first gateway.
    pub fn entry(&self) -> String {
        format!("localhost:{}", self.entry.port())
    }

    /// `ringway ctl` on the broker's machine.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = ringway();
        command.arg("ctl").args(arguments);
        command.arg("--socket").arg(self.folder.path().join("broker-state/admin.sock"));
        run(&command)
    }

    /// The broker's CA, which issued the certificates of the gateways.
    pub fn ca_pem(&self) -> String {
        fs::read_to_string(self.ca()).unwrap()
    }

    /// Steps 1 to 6: signs in, fetches the signed file.
    pub fn subscribe(&self, user: &str) -> PathBuf {
        let out = self.folder.path().join(format!("{user}-desktops"));
        let mut command = ringway();
        command.args(["subscribe", &self.broker_url, "--ca"]).arg(self.ca());
        command.args(["--token", &token(user), "--out"]).arg(&out);
        run(&command);
        let files: Vec<_> =
            fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
        let rdp = files.iter().find(|file| file.extension().is_some_and(|e| e == "rdp"));
        let rdp = rdp.unwrap_or_else(|| panic!("no .rdp file among {files:?}")).clone();
        let mut verify = ringway();
        verify.args(["rdp", "verify"]).arg(&rdp).arg("--ca").arg(self.ca());
        run(&verify);
        rdp
    }

    /// Step 7 and on: offers the desktop at the returned address.
    pub fn connect(&self, user: &str, rdp: &Path) -> (Process, SocketAddr) {
        let address = free_address();
        let mut command = ringway();
        command.arg("connect").arg(rdp).arg("--ca").arg(self.ca());
        command.args(["--token", &token(user), "--listen", &address.to_string()]);
        let name = format!("connect-{user}");
        let mut process = Process::start(self.folder.path(), &name, &command);
        let ready = poll(START_LIMIT, || {
            let printed = process.printed().contains(&address.to_string());
            (printed || !process.is_running()).then_some(printed)
        });
        assert_eq!(ready, Some(true), "{}{}", process.last_words(), self.logs());
        (process, address)
    }

    /// What each gateway logged under that message, one JSON object a line.
    pub fn gateway_events(&self, message: &str) -> Vec<Vec<Value>> {
        self.gateways.iter().map(|gateway| gateway.events(message)).collect()
    }

    /// And what the agent did.
    pub fn agent_events(&self, message: &str) -> Vec<Value> {
        self.agent.iter().flat_map(|agent| agent.events(message)).collect()
    }

    /// That of the gateways, once every one has at least one.
    pub fn events_of_every_gateway(&self, message: &str, limit: Duration) -> Vec<Vec<Value>> {
        let all = || {
            let events = self.gateway_events(message);
            events.iter().all(|of_one| !of_one.is_empty()).then_some(events)
        };
        poll(limit, all)
            .unwrap_or_else(|| panic!("not every gateway logged {message:?}\n{}", self.logs()))
    }

    /// Fails unless every role feeds its watchdog.
    pub fn assert_watchdogs_are_fed(&mut self) {
        for role in self.roles_mut() {
            let fed = role.manager.hears_again("WATCHDOG=1", WATCHDOG * 10);
            assert!(fed, "the watchdog starves\n{}", role.process.last_words());
        }
    }

    /// Asks every process to stop and expects it to do so without a fault.
    pub fn stop(mut self) {
        for role in self.roles_mut() {
            let status = role.process.stop(STOP_LIMIT);
            let words = role.process.last_words();
            assert!(status.is_some_and(|status| status.success()), "{status:?}\n{words}");
            let said = poll(START_LIMIT, || role.manager.has_heard("STOPPING=1").then_some(()));
            assert!(said.is_some(), "stopped silently\n{words}");
        }
    }

    pub fn logs(&self) -> String {
        let all = self.gateways.iter().chain([&self.broker]).chain(&self.agent);
        all.map(|role| role.process.last_words()).collect()
    }

    /// In the order in which they are stopped: the broker outlives the rest.
    fn roles_mut(&mut self) -> impl Iterator<Item = &mut Role> {
        self.gateways.iter_mut().chain(&mut self.agent).chain([&mut self.broker])
    }

    /// The broker's CA, as every enrolled machine has it.
    fn ca(&self) -> PathBuf {
        self.folder.path().join("host-1/broker-ca.pem")
    }
}

impl Role {
    /// Starts it as its unit would and waits until it says that it is ready.
    fn start(place: &Path, role: &str, name: &str) -> Self {
        let manager = ServiceManager::listen(place, name);
        let mut command = ringway();
        command.args([role, "--config"]).arg(config_file(place, name));
        command.env("RINGWAY_LOG", "info").envs(manager.environment());
        let process = Process::start(place, name, &command);
        let mut role = Self { process, manager };
        let outcome = poll(START_LIMIT, || {
            let ready = role.manager.has_heard("READY=1");
            (ready || !role.process.is_running()).then_some(ready)
        });
        assert_eq!(outcome, Some(true), "{name} is not ready\n{}", role.process.last_words());
        role
    }

    fn events(&self, message: &str) -> Vec<Value> {
        let printed = self.process.printed();
        let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == message).collect()
    }
}

/// The bearer token of a test user.
pub fn token(user: &str) -> String {
    format!("test-token-of-{user}")
}

fn start_gateway(
    place: &Path,
    broker_url: &str,
    name: &str,
    plan: &Plan<'_>,
) -> (Role, SocketAddr) {
    let address = free_address();
    enrol(place, broker_url, "gateway", name);
    let (state, port, limits) = (place.join(name), address.port(), plan.gateway_limits);
    let config = format!(
        "[gateway]\nlisten = \"{address}\"\nurl = \"https://localhost:{port}\"\nstate_dir = {state:?}\n\
         [gateway.threads]\nrelay_workers = 1\npin = false\noutput_slots = 32\nprobe_interval_ms = 250\n\
         [gateway.limits]\n{limits}\n"
    );
    write_config(place, name, &config);
    (Role::start(place, "gateway", name), address)
}

/// `ringway token create` on the broker, then `ringway enroll` on the machine.
fn enrol(place: &Path, broker_url: &str, role: &str, name: &str) {
    let mut create = ringway();
    create.args(["token", "create", "--config"]).arg(config_file(place, "broker"));
    create.args(["--role", role, "--ttl", "1h", "--uses", "1", "--json"]);
    if role == "agent" {
        create.args(["--pool", POOL]);
    } else {
        create.args(["--server-name", "localhost"]);
    }
    let created: Value = serde_json::from_str(&run(&create)).unwrap();
    let token = created["token"].as_str().unwrap_or_else(|| panic!("no token in {created}"));
    let mut enrol = ringway();
    enrol.args(["enroll", "--broker", broker_url, "--token", token, "--role", role]);
    enrol.args(["--name", name, "--state-dir"]).arg(place.join(name));
    run(&enrol);
}

fn broker_config(place: &Path, address: SocketAddr, url: &str, plan: &Plan<'_>) -> String {
    let (pool, identity) = (plan.pool, plan.identity);
    let state = place.join("broker-state");
    let mut config = format!(
        "[broker]
listen = \"{address}\"
public_url = \"{url}\"
server_names = [\"localhost\"]
state_dir = {state:?}
[[broker.pools]]
name = \"{POOL}\"
{pool}
[[broker.resources]]
id = \"desktop\"
title = \"Desktop\"
pool = \"{POOL}\"
users = [\"*\"]
[broker.identity]
{identity}
"
    );
    for user in plan.users {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token(user).as_bytes());
        let hash = hex::encode(digest.as_ref());
        config.push_str(&format!(
            "[[broker.identity.static_tokens]]\nuser = \"{user}\"\ntoken_sha256 = \"{hash}\"\n"
        ));
    }
    config
}

fn config_file(place: &Path, name: &str) -> PathBuf {
    place.join(format!("{name}.toml"))
}

fn write_config(place: &Path, name: &str, text: &str) {
    let file = config_file(place, name);
    fs::write(&file, text).unwrap();
    let mut check = ringway();
    check.args(["config", "check"]).arg(&file);
    run(&check);
}

/// Runs a command to its end, which must be a success, and returns what it
/// printed for programs.
fn run(command: &Command) -> String {
    let mut limited = Command::new("timeout");
    limited.arg(COMMAND_LIMIT_S).arg(command.get_program()).args(command.get_args());
    let output = limited.output().unwrap();
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    assert!(output.status.success(), "ringway {}: {}", arguments.join(" "), said(&output));
    String::from_utf8(output.stdout).unwrap()
}
