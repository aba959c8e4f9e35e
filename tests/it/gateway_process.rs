//! A gateway as its service manager sees it: limits and signals.

use std::sync::Arc;
use std::time::Duration;

use ringway::core::codes::{Code, Refusal};
use ringway::wire::channel::GatewayToBroker;
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::support::ca::TestCa;
use crate::support::fake_broker::FakeBroker;
use crate::support::gateway_process::GatewayProcess;
use crate::support::legs::{End, dial};
use crate::support::wait::{until, within};
use crate::support::world::Pair;

struct Setting {
    tls: Arc<ClientConfig>,
    broker: FakeBroker,
    process: GatewayProcess,
}

impl Setting {
    fn start(descriptors: u64, limits: &str) -> Self {
        let ca = Arc::new(TestCa::new());
        let broker = FakeBroker::start(&ca);
        let process = GatewayProcess::start(&ca, &broker.url(), descriptors, limits);
        Self { tls: Arc::new(ca.client_tls()), broker, process }
    }

    async fn first_pair(&self) -> Pair {
        self.process.first_pair(&self.broker, &self.tls).await
    }

    async fn pair(&self) -> Result<Pair, Refusal> {
        self.process.pair(&self.broker, &self.tls).await
    }
}

#[tokio::test]
async fn out_of_descriptors_it_pauses_and_does_not_spin() {
    const WINDOW: Duration = Duration::from_secs(1);
    let setting = Setting::start(64, "handshake_timeout_ms = 60000");
    let mut pair = setting.first_pair().await;

    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(TcpStream::connect(setting.process.port.address()).await.unwrap());
    }
    until("it says so", || setting.process.log().contains("Paused accepting")).await;
    pair.assert_alive().await;
    let before = setting.process.cpu_time();
    sleep(WINDOW).await;
    let used = setting.process.cpu_time() - before;
    assert!(used < WINDOW / 4, "it used {used:?} of {WINDOW:?} with nothing to do");
    assert_eq!(setting.process.log().matches("Paused accepting").count(), 1, "logged each time");
    pair.assert_alive().await;

    drop(flood);
    let paired = async {
        loop {
            // Served in order of arrival, behind what is left of the flood.
            if let Ok(pair) = setting.pair().await {
                return pair;
            }
        }
    };
    within("a new session", paired).await.assert_alive().await;
    pair.assert_alive().await;
}

#[tokio::test]
async fn sigterm_gives_live_sessions_their_grace_and_then_one_reason() {
    let mut setting = Setting::start(256, "shutdown_grace_ms = 500");
    let mut pair = setting.first_pair().await;
    setting.process.terminate();
    until("it stops", || setting.process.log().contains("Stopping")).await;
    pair.assert_alive().await;
    assert_eq!(pair.client.end().await, End::Clean);
    assert_eq!(pair.host.end().await, End::Clean);
    let status = setting.process.exit().await;
    assert!(status.success(), "{status}: {}", setting.process.log());
    assert_eq!(setting.broker.close_reason(pair.session).await, "gateway_shutdown");
    assert_eq!(setting.broker.goodbye().await, Code::GatewayDraining);
}

/// However connections and sessions end, their descriptors go with them.
#[tokio::test]
async fn no_descriptor_is_left_behind() {
    let setting = Setting::start(1_024, "handshake_timeout_ms = 60000");
    drop(setting.first_pair().await);
    let address = setting.process.port.address();
    let session_ends = || {
        setting
            .broker
            .heard(|heard| match heard.message {
                GatewayToBroker::SessionEnded { .. } => Some(()),
                _ => None,
            })
            .len()
    };
    until("the first session is over", || session_ends() == 1).await;
    let before = setting.process.open_descriptors();

    for round in 0..20 {
        let mut pair = setting.pair().await.unwrap();
        match round % 4 {
            0 => pair.client.close().await,
            1 => pair.client.reset(),
            2 => pair.host.cut().await,
            _ => pair.host.send_raw(&[23, 3, 3, 0, 30, 0, 0, 0]).await,
        }
        let mut garbage = TcpStream::connect(address).await.unwrap();
        garbage.write_all(b"SSH-2.0-garbage\r\n").await.unwrap();
        let mut refused = dial(address, &setting.tls).await;
        assert_eq!(refused.ask("GET / HTTP/1.1\r\n\r\n").await.code(), Code::NotFound);
        drop(TcpStream::connect(address).await.unwrap());
    }
    until("all sessions are over", || session_ends() == 21).await;
    until("all descriptors are closed", || setting.process.open_descriptors() <= before).await;
}

/// Output slots are touched when they are first used, not when they are made.
#[tokio::test]
async fn a_gateway_that_relays_little_takes_little_memory() {
    const RESIDENT_MAX: u64 = 32 * 1024 * 1024;
    let setting = Setting::start(256, "");
    let mut pair = setting.first_pair().await;
    pair.assert_alive().await;
    let resident = setting.process.anonymous_bytes();
    assert!(resident < RESIDENT_MAX, "{resident} bytes, with 72 MiB of output slots");
}
