//! Machines that are off: a hook of the operator's starts them, and the client
//! gets in at its next try.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use ringway::config::broker::{BrokerConfig, Kind};
use ringway::connect::{Connector, ConnectorEvent, ConnectorSettings};
use ringway::core::codes::Code;
use ringway::core::placement::AssignmentRule;
use ringway::demo::world::{DESKTOP, WorldSettings};
use ringway::wire::admin::{AdminResponse, BrokerRequest};
use ringway::wire::enroll::MachineRole;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::programs::ringway;
use crate::support::stage::{Stage, settings};
use crate::support::targets::echo_server;
use crate::support::wait::{until, within};

/// The hook lies beside the broker's state.
fn with_hook(broker: &mut BrokerConfig) {
    let hook = broker.state_dir.with_file_name("start-host");
    let pool = &mut broker.pools[0];
    pool.start_command =
        ["/bin/sh", hook.to_str().unwrap(), "{pool}", "{host}", "{user}"].map(str::to_owned).into();
    pool.start_retry_ms = 300;
    // One that failed is tried again at once, so that the test need not wait.
    broker.limits.host_failure_pause_ms = 100;
}

struct Hook {
    folder: PathBuf,
}

impl Hook {
    /// Writes down what it was called with, then does this.
    fn install(stage: &Stage, then: &str) -> Self {
        let folder = stage.world.directory().to_owned();
        let script =
            format!("cd '{}' || exit 1\necho \"$1 $2 $3\" >> called\n{then}\n", folder.display());
        std::fs::write(folder.join("start-host"), script).unwrap();
        Self { folder }
    }

    fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join("called")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn agent(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.folder.join("agent.pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }
}

impl Drop for Hook {
    /// What the hook has started is nobody's child.
    fn drop(&mut self) {
        if let Some(agent) = self.agent() {
            let _gone_already = kill_process(agent, Signal::KILL);
        }
    }
}

#[tokio::test]
async fn step09_a_machine_that_is_off_is_started_and_the_client_gets_in_at_its_retry() {
    let settings = WorldSettings { gateways: 1, adjust_broker: with_hook, ..settings() };
    let stage = Stage::start_with(settings).await;
    let state_dir = stage.world.enrol("host-1", MachineRole::Agent).await.unwrap();
    let config = stage.world.directory().join("agent.toml");
    let target = echo_server().await;
    let text = format!("[agent]\nstate_dir = {state_dir:?}\ntarget = \"{target}\"\n");
    std::fs::write(&config, text).unwrap();
    let program = ringway().get_program().to_owned();
    let hook = Hook::install(
        &stage,
        &format!(
            "setsid '{}' agent --config agent.toml > agent.log 2>&1 &\necho $! > agent.pid",
            program.display()
        ),
    );

    let events = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&events);
    let connector = ConnectorSettings {
        on_event: Some(Arc::new(move |event| heard.lock().unwrap().push(event.clone()))),
        ..ConnectorSettings::new(stage.opener("alice").settings().clone())
    };
    let connector = Connector::start(connector, None).await.unwrap();
    let mut client = TcpStream::connect(connector.local_addr()).await.unwrap();
    client.write_all(b"is it on?").await.unwrap();
    let mut echoed = [0; 9];
    within("the machine's answer", client.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"is it on?");
    {
        let events = events.lock().unwrap();
        let Some(ConnectorEvent::Waiting { refusal, .. }) = events.first() else {
            panic!("{events:?}")
        };
        assert_eq!(refusal.code, Code::HostStarting);
        assert_eq!(refusal.detail.as_deref(), Some("host-1 is told to start"));
        assert!(matches!(events.last(), Some(ConnectorEvent::Started { .. })), "{events:?}");
    }
    // However often the client asked.
    assert_eq!(hook.calls(), [format!("{} host-1 alice", stage.world.broker_config.pools[0].name)]);
    // The next one finds it on.
    let place = stage.place("bob").await.unwrap();
    assert_eq!((place.ringway.host.as_str(), hook.calls().len()), ("host-1", 1));
    drop(client);
    connector.shutdown().await;
    // While there is a folder that says which process it started.
    drop(hook);
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_in_a_personal_pool_the_users_own_machine_is_started_and_a_failure_is_said() {
    let settings = WorldSettings {
        gateways: 1,
        adjust_broker: |broker| {
            with_hook(broker);
            broker.pools[0].kind = Kind::Personal;
            broker.pools[0].assignment = Some(AssignmentRule::Direct);
        },
        ..settings()
    };
    let stage = Stage::start_with(settings).await;
    for name in ["host-1", "host-2"] {
        stage.world.enrol(name, MachineRole::Agent).await.unwrap();
    }
    let hook = Hook::install(&stage, "echo no power >&2\nexit 1");
    assert_eq!(stage.place("alice").await.unwrap_err().code, Code::NoHostAssigned);
    let (pool, host) = (stage.world.broker_config.pools[0].name.clone(), "host-2".parse().unwrap());
    let assign =
        BrokerRequest::Assign { pool: pool.clone(), user: "alice".into(), host, undo: false };
    assert_eq!(stage.ask_broker(&assign), AdminResponse::Done);

    let refusal = stage.place("alice").await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after_ms), (Code::HostStarting, Some(300)));
    until("the hook is called", || !hook.calls().is_empty()).await;
    // Once it has failed nobody is told to wait for it.
    let told =
        async { while stage.place("alice").await.unwrap_err().code != Code::AssignedHostAway {} };
    within("the failure", told).await;
    assert_eq!(hook.calls()[0], format!("{pool} host-2 alice"));
    assert_eq!(stage.world.broker_config.resources[0].id.as_str(), DESKTOP);
    stage.shutdown().await;
}
