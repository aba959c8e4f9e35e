//! A gateway or an agent as a process of its own, the other roles in this one:
//! what the process has open, and what SIGTERM does to it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::Arc;

use ringway::core::codes::{Code, Refusal};
use ringway::demo::world::{DESKTOP, HOST, WorldSettings};
use ringway::wire::arm::ConnectionResponse;
use ringway::wire::enroll::MachineRole;

use crate::support::legs::End;
use crate::support::ports::ReservedPort;
use crate::support::process::Process;
use crate::support::programs::ringway;
use crate::support::stage::{Seated, Stage, settings, token, wish};
use crate::support::targets::{Echo, echo_server};
use crate::support::wait::{PATIENCE, until, within};

/// A world whose only gateway is another process.
struct Outside {
    stage: Stage,
    port: ReservedPort,
    gateway: Process,
}

impl Outside {
    async fn start(grace_ms: u64) -> Self {
        let mut stage = Stage::start_with(WorldSettings { gateways: 0, ..settings() }).await;
        stage.world.add_host("host-1", Arc::new(Echo)).await.unwrap();
        let port = ReservedPort::new();
        stage.world.enrol("gw-out", MachineRole::Gateway).await.unwrap();
        let gateway = Self::start_gateway(&stage, &port, grace_ms);
        let outside = Self { stage, port, gateway };
        outside.until_here().await;
        outside
    }

    fn start_gateway(stage: &Stage, port: &ReservedPort, grace_ms: u64) -> Process {
        let state_dir = stage.world.directory().join("gw-out");
        let config = format!(
            "[gateway]\nlisten = \"{}\"\nurl = \"https://{HOST}:{}\"\nstate_dir = {state_dir:?}\n\
             threads = {{ relay_workers = 1, pin = false, output_slots = 32 }}\n\
             limits = {{ shutdown_grace_ms = {grace_ms} }}\n",
            port.address(),
            port.address().port(),
        );
        start(stage, "gateway", &config)
    }

    async fn until_here(&self) {
        let here = self.stage.world.until("the gateway is here", |_, now| now.gateways.len() == 1);
        here.await.unwrap();
    }

    async fn place(&self, user: &str) -> Result<ConnectionResponse, Refusal> {
        let bearer = token(user);
        let asking = async {
            loop {
                let entry = self.port.address();
                let placed = self.stage.place_at(entry, Some(&bearer), &wish(DESKTOP)).await;
                // Until the broker's table has come, it knows no gateway.
                if !placed.as_ref().is_err_and(|refusal| refusal.code == Code::NoGateway) {
                    return placed;
                }
            }
        };
        within("a place", asking).await
    }

    async fn open(&self, user: &str) -> Seated {
        let place = self.place(user).await.unwrap();
        let leg = self.stage.join(&place).await.unwrap();
        let ringway = place.ringway;
        self.stage.until_live(ringway.session).await;
        Seated { session: ringway.session, gateway: ringway.gateway, leg }
    }
}

fn start(stage: &Stage, role: &str, config: &str) -> Process {
    let file = stage.world.directory().join(format!("{role}-process.toml"));
    std::fs::write(&file, config).unwrap();
    let mut command = ringway();
    command.args([role, "--config"]).arg(&file).env("RINGWAY_LOG", "info");
    Process::start(stage.world.directory(), &format!("{role}-process"), &command)
}

/// Its exit code, while everybody else goes on.
async fn exit(mut process: Process) -> ExitStatus {
    let waiting = tokio::task::spawn_blocking(move || {
        let status = process.wait(PATIENCE);
        status.unwrap_or_else(|| panic!("does not end\n{}", process.last_words()))
    });
    waiting.await.unwrap()
}

#[tokio::test]
async fn step11_sigterm_lets_live_sessions_go_on_and_nobody_new_in() {
    let outside = Outside::start(600_000).await;
    let mut alice = outside.open("alice").await;
    let bob = outside.place("bob").await.unwrap();
    outside.gateway.terminate();
    let draining = outside.stage.world.until("it drains", |_, now| now.gateways[0].draining);
    draining.await.unwrap();
    assert_eq!(outside.place("carol").await.unwrap_err().code, Code::GatewayDraining);
    // Not even those who have a ticket: another gateway takes them at once.
    assert_eq!(outside.stage.join(&bob).await.unwrap_err().code, Code::GatewayDraining);
    alice.leg.send(b"still here").await;
    assert_eq!(alice.leg.receive(10).await, b"still here");
    // The last session's end is the gateway's.
    alice.leg.close().await;
    assert_eq!(alice.leg.end().await, End::Clean);
    assert!(exit(outside.gateway).await.success());
    let view = outside.stage.end_of(alice.session).await;
    assert_eq!(view.end.as_deref(), Some("client_closed"));
    let gone = outside.stage.world.until("it said goodbye", |_, now| now.gateways.is_empty());
    gone.await.unwrap();
    outside.stage.shutdown().await;
}

#[tokio::test]
async fn step11_sigterm_ends_what_is_left_after_the_grace_with_one_reason() {
    let outside = Outside::start(300).await;
    let mut alice = outside.open("alice").await;
    let mut bob = outside.open("bob").await;
    outside.gateway.terminate();
    for seat in [&mut alice, &mut bob] {
        assert_eq!(seat.leg.end().await, End::Clean);
        let view = outside.stage.end_of(seat.session).await;
        assert_eq!(view.end.as_deref(), Some("gateway_shutdown"));
    }
    assert!(exit(outside.gateway).await.success());
    outside.stage.until_free().await;
    assert_eq!(outside.stage.world.agents[0].live_sessions(), []);
    outside.stage.shutdown().await;
}

#[tokio::test]
async fn step11_the_death_of_a_gateway_frees_its_places() {
    let mut outside = Outside::start(0).await;
    let mut alice = outside.open("alice").await;
    outside.gateway.kill();
    assert!(matches!(alice.leg.end().await, End::Truncated | End::Reset));
    // The host saw the end and told the broker.
    outside.stage.until_free().await;
    let (view, _) = outside.stage.explained(alice.session).await;
    assert_eq!(view.end.as_deref(), Some("host_ended"));
    let gone = outside.stage.world.until("it is missed", |_, now| now.gateways.is_empty());
    gone.await.unwrap();
    // Another one with the same name and key is as good.
    outside.gateway = Outside::start_gateway(&outside.stage, &outside.port, 0);
    outside.until_here().await;
    let mut again = outside.open("alice").await;
    again.leg.send(b"here I am again").await;
    assert_eq!(again.leg.receive(15).await, b"here I am again");
    drop(again);
    outside.stage.until_free().await;
    outside.stage.shutdown().await;
}

#[tokio::test]
async fn step09_nothing_listens_on_a_session_host() {
    let stage = Stage::start_with(WorldSettings { gateways: 1, ..settings() }).await;
    let target = echo_server().await;
    let state_dir = stage.world.enrol("host-1", MachineRole::Agent).await.unwrap();
    let config = format!(
        "[agent]\nstate_dir = {state_dir:?}\ntarget = \"{target}\"\n\
         limits = {{ shutdown_grace_ms = 100 }}\n"
    );
    let agent = start(&stage, "agent", &config);
    let here =
        stage.world.until("the host is here", |_, now| now.hosts.iter().any(|h| h.connected));
    here.await.unwrap();
    let broker = stage.world.broker.address();
    // Its channel and nothing else, once its first look at the target is over.
    let only_the_channel = (0, HashSet::from([broker]));
    until("nothing but the channel", || sockets(&agent) == only_the_channel).await;

    let mut alice = stage.open("alice").await.unwrap();
    alice.leg.send(b"through a real agent").await;
    assert_eq!(alice.leg.receive(20).await, b"through a real agent");
    // During a session: the gateway and the RDP server, dialled from here.
    assert_eq!(sockets(&agent), (0, HashSet::from([broker, stage.entry(), target])));

    agent.terminate();
    assert_eq!(alice.leg.end().await, End::Clean);
    alice.leg.close().await;
    assert!(exit(agent).await.success());
    let view = stage.end_of(alice.session).await;
    assert_eq!(view.end.as_deref(), Some("host_closed"));
    stage.until_free().await;
    stage.shutdown().await;
}

/// How many TCP or UDP sockets of a process take what was not asked for, and
/// where its connections lead.
fn sockets(process: &Process) -> (usize, HashSet<SocketAddr>) {
    const LISTEN: &str = "0A";
    const ESTABLISHED: &str = "01";
    let folder = format!("/proc/{}/fd", process.pid().as_raw_nonzero());
    let own: HashSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| {
            let link = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(link.to_owned())
        })
        .collect();
    let (mut open, mut connections) = (0, HashSet::new());
    for (table, is_tcp) in [("tcp", true), ("tcp6", true), ("udp", false), ("udp6", false)] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if !own.contains(fields[9]) {
                continue;
            }
            if !is_tcp || fields[3] == LISTEN {
                open += 1;
            } else if fields[3] == ESTABLISHED && table == "tcp" {
                connections.insert(address(fields[2]));
            }
        }
    }
    (open, connections)
}

/// `0100007F:1F90` is 127.0.0.1:8080.
fn address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let ip = u32::from_str_radix(ip, 16).unwrap().to_le_bytes();
    (ip, u16::from_str_radix(port, 16).unwrap()).into()
}
