//! A real gateway in this process, with small tables.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ringway::config::gateway::{
    ChannelTiming, GatewayConfig, GatewayLimits, GatewayThreads, HistogramSettings,
};
use ringway::core::codes::Code;
use ringway::core::ids::GatewayId;
use ringway::gateway::Gateway;
use ringway::gateway::shared::{Shared, lock};
use ringway::tls::settings::TlsSettings;
use ringway::wire::channel::GatewayEntry;
use ringway::wire::enroll::MachineRole;
use tempfile::TempDir;

use super::ca::TestCa;
use super::ports::ReservedPort;

pub struct TestGateway {
    pub id: GatewayId,
    pub address: SocketAddr,
    gateway: Option<Gateway>,
    _port: ReservedPort,
    _state_dir: TempDir,
}

impl TestGateway {
    /// Enrols and starts one. `adjust` may change anything but its address.
    pub fn start(
        ca: &TestCa,
        broker_url: &str,
        name: &str,
        adjust: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let state_dir = tempfile::tempdir().unwrap();
        ca.enrol(state_dir.path(), name, MachineRole::Gateway, broker_url);
        let port = ReservedPort::new();
        let mut config = config(state_dir.path(), &port);
        adjust(&mut config);
        let gateway = Gateway::start(config, None).unwrap();
        Self {
            id: name.parse().unwrap(),
            address: gateway.address(),
            gateway: Some(gateway),
            _port: port,
            _state_dir: state_dir,
        }
    }

    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    pub fn shared(&self) -> &Shared {
        self.gateway().shared()
    }

    /// Its line of the gateway table.
    pub fn entry(&self) -> GatewayEntry {
        GatewayEntry {
            gateway: self.id.clone(),
            url: self.shared().config().url.clone(),
            connections: 0,
            in_flight: 0,
            capacity: 100,
            draining: false,
            age_ms: 0,
        }
    }

    pub fn refusals(&self, code: Code) -> u64 {
        lock(&self.shared().counters.refusals).get(&code).copied().unwrap_or(0)
    }

    /// Connections that are not relayed (yet).
    pub fn in_lobby(&self) -> u64 {
        self.shared().counters.connections_now.load(Relaxed)
    }

    /// Times that a sender was held back for a slow reader.
    pub fn held_back(&self) -> u64 {
        self.shared().workers.iter().map(|worker| worker.stats.held_back.load(Relaxed)).sum()
    }

    /// What SIGTERM does.
    pub async fn shutdown(&mut self, grace: Duration) {
        self.gateway.take().unwrap().shutdown(grace).await;
    }
}

impl Drop for TestGateway {
    /// A test that ends, well or not, leaves no threads behind.
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(gateway.shutdown(Duration::ZERO));
            });
        }
    }
}

fn config(state_dir: &Path, port: &ReservedPort) -> GatewayConfig {
    GatewayConfig {
        listen: port.address(),
        url: port.url(),
        state_dir: state_dir.into(),
        tls_certificate: None,
        tls_key: None,
        peer_ca: None,
        tls: TlsSettings::default(),
        admin_socket: None,
        admin_uids: Vec::new(),
        admin_gids: Vec::new(),
        limits: GatewayLimits::default(),
        threads: GatewayThreads {
            relay_workers: 1,
            lobby_threads: 1,
            output_slots: 32,
            pin: false,
            probe_interval_ms: 50,
            ..GatewayThreads::default()
        },
        channel: ChannelTiming {
            reconnect_base_ms: 10,
            reconnect_cap_ms: 100,
            ..ChannelTiming::default()
        },
        histograms: HistogramSettings::default(),
    }
}
