//! What the broker's tests share: a broker on loopback, and machines that
//! speak to it over real TLS and WebSockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite;

use super::Broker;
use crate::channel::pump::{self, Outbox, PumpEnd, PumpRules};
use crate::config::Findings;
use crate::config::broker::BrokerConfig;
use crate::core::codes::Code;
use crate::core::ids::SessionId;
use crate::core::selection::Explain;
use crate::tls::settings::TlsSettings;
use crate::wire::admin::BrokerSnapshot;
use crate::wire::arm::RefusalBody;
use crate::wire::channel::{
    AgentToBroker, BrokerToAgent, BrokerToGateway, GatewayToBroker, Order, PlaceRequest, Placement,
    VERSION,
};
use crate::wire::enroll::{EnrolRequest, EnrolResponse, MachineRole};

/// Far beyond what anything here takes; a test that reaches it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const TOKEN: &str = "token-of-ann";

/// A directory that is gone when the test is.
pub(super) struct TemporaryDir(PathBuf);

impl TemporaryDir {
    pub(super) fn new() -> Self {
        let name = format!("ringway-{}", hex::encode(super::random_bytes::<8>().unwrap()));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}

/// A configuration with one pool, two resources and one static token. `extra`
/// comes before the tables.
pub(super) fn config(dir: &Path, extra: &str, limits: &str) -> BrokerConfig {
    let hash = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, TOKEN.as_bytes()));
    // Patient, unless the test is about impatience.
    let order =
        if limits.contains("order_answer") { "" } else { "order_answer_timeout_ms = 60000" };
    let text = format!(
        r#"
        listen = "127.0.0.1:0"
        public_url = "https://localhost"
        server_names = ["localhost"]
        state_dir = {dir:?}
        workspace = "test"
        {extra}
        [limits]
        {limits}
        {order}
        [[identity.static_tokens]]
        user = "ann"
        token_sha256 = "{hash}"
        [[pools]]
        name = "pool"
        sessions_per_host_max = 5
        [[resources]]
        id = "desktop"
        title = "Desktop"
        pool = "pool"
        users = ["*"]
        [[resources]]
        id = "secret"
        title = "Not for Ann"
        pool = "pool"
        users = ["bob"]
        "#
    );
    let config: BrokerConfig = toml::from_str(&text).unwrap();
    assert_eq!(Findings::of(|found| config.check(found)), Findings::default());
    config
}

/// A broker and the directory it lives in.
pub(super) struct World {
    pub(super) dir: TemporaryDir,
    pub(super) broker: Broker,
}

impl World {
    pub(super) async fn start(limits: &str) -> Self {
        Self::start_adjusted(limits, |_| {}).await
    }

    /// The same with changes that the test makes to the configuration.
    pub(super) async fn start_adjusted(limits: &str, adjust: fn(&mut BrokerConfig)) -> Self {
        crate::tls::install_provider();
        let dir = TemporaryDir::new();
        let mut config = config(dir.path(), "", limits);
        adjust(&mut config);
        let broker = Broker::start(config, None).await.unwrap();
        Self { dir, broker }
    }

    /// Stops the broker and starts another one with the same state.
    pub(super) async fn restart(self) -> Self {
        self.restart_adjusted(|_| {}).await
    }

    pub(super) async fn restart_adjusted(self, adjust: fn(&mut BrokerConfig)) -> Self {
        self.broker.shutdown().await;
        let mut config = config(self.dir.path(), "", "");
        adjust(&mut config);
        let broker = Broker::start(config, None).await.unwrap();
        Self { dir: self.dir, broker }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.broker.address().port())
    }

    pub(super) fn http(&self) -> reqwest::Client {
        let roots = self.broker.shared.authority.roots().unwrap();
        reqwest::Client::builder()
            .tls_backend_preconfigured(TlsSettings::default().client(roots).unwrap())
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap()
    }

    pub(super) async fn enrol(&self, role: MachineRole, name: &str) -> Credentials {
        let pool = (role == MachineRole::Agent).then(|| "pool".parse().unwrap());
        let ttl = Duration::from_secs(60);
        let token = self.broker.create_enrol_token(role, pool, ttl, 1).await.unwrap();
        self.redeem(&token, role, name).await.unwrap()
    }

    pub(super) async fn redeem(
        &self,
        token: &str,
        role: MachineRole,
        name: &str,
    ) -> Result<Credentials, Code> {
        self.redeem_for(token, role, name, &[]).await
    }

    pub(super) async fn redeem_for(
        &self,
        token: &str,
        role: MachineRole,
        name: &str,
        server_names: &[&str],
    ) -> Result<Credentials, Code> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![]).unwrap();
        let request = EnrolRequest {
            token: token.into(),
            role,
            name: name.into(),
            csr_pem: params.serialize_request(&key).unwrap().pem().unwrap(),
            server_names: server_names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let response = self.http().post(self.url("/enroll")).json(&request).send().await.unwrap();
        if !response.status().is_success() {
            return Err(response.json::<RefusalBody>().await.unwrap().refusal.code);
        }
        let response: EnrolResponse = response.json().await.unwrap();
        Ok(Credentials { chain_pem: response.certificate_pem, key_pem: key.serialize_pem() })
    }

    /// Opens a channel; the status when the broker refuses.
    pub(super) async fn channel<In, Out>(
        &self,
        path: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Machine<In, Out>, u16>
    where
        In: serde::de::DeserializeOwned + Send + 'static,
        Out: serde::Serialize + Send + Sync + 'static,
    {
        let tcp = TcpStream::connect(self.broker.address()).await.unwrap();
        self.channel_over(tcp, path, credentials).await
    }

    /// The same over a connection that is there already.
    pub(super) async fn channel_over<In, Out>(
        &self,
        tcp: TcpStream,
        path: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Machine<In, Out>, u16>
    where
        In: serde::de::DeserializeOwned + Send + 'static,
        Out: serde::Serialize + Send + Sync + 'static,
    {
        let stream = self.tls(tcp, credentials).await;
        let url = format!("wss://localhost{path}");
        let socket = match tokio_tungstenite::client_async(url, stream).await {
            Ok((socket, _)) => socket,
            Err(tungstenite::Error::Http(response)) => return Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        };
        let (outbox, queue) = pump::outbox(256);
        let (sender, inbound) = mpsc::channel(256);
        let end = tokio::spawn(pump::drive(socket, PumpRules::default(), queue, sender));
        Ok(Machine { outbox, inbound, end })
    }

    pub(super) async fn tls(
        &self,
        tcp: TcpStream,
        credentials: Option<&Credentials>,
    ) -> TlsStream<TcpStream> {
        let roots = self.broker.shared.authority.roots().unwrap();
        let tls = TlsSettings::default();
        let tls = match credentials {
            None => tls.client(roots),
            Some(credentials) => {
                let (chain, key) = credentials.read();
                tls.client_with_certificate(roots, chain, key)
            }
        };
        tokio_rustls::TlsConnector::from(Arc::new(tls.unwrap()))
            .connect(ServerName::try_from("localhost").unwrap(), tcp)
            .await
            .unwrap()
    }

    pub(super) async fn agent(&self, credentials: &Credentials, live: &[SessionId]) -> FakeAgent {
        let mut agent: FakeAgent = self.channel("/channel/agent", Some(credentials)).await.unwrap();
        agent.outbox.post(AgentToBroker::Hello {
            version: VERSION,
            software: "fake".into(),
            live: live.to_vec(),
            capacity: 0,
            labels: vec!["rack-1".parse().unwrap()],
            checks: vec![],
        });
        assert!(matches!(agent.next().await, BrokerToAgent::Welcome { .. }));
        agent
    }

    pub(super) async fn gateway(
        &self,
        credentials: &Credentials,
        live: &[SessionId],
    ) -> FakeGateway {
        let mut gateway: FakeGateway =
            self.channel("/channel/gateway", Some(credentials)).await.unwrap();
        gateway.outbox.post(GatewayToBroker::Hello {
            version: VERSION,
            software: "fake".into(),
            url: "https://gw.example:443".into(),
            capacity: 1_000,
            live: live.to_vec(),
            more: false,
        });
        assert!(matches!(gateway.next().await, BrokerToGateway::Welcome { .. }));
        gateway
    }

    /// One enrolled and connected host and gateway: the usual start.
    pub(super) async fn with_machines(&self) -> (FakeAgent, FakeGateway) {
        let host = self.enrol(MachineRole::Agent, "host-1").await;
        let gateway = self.enrol(MachineRole::Gateway, "gw-1").await;
        (self.agent(&host, &[]).await, self.gateway(&gateway, &[]).await)
    }

    /// Waits until the broker's state is as described.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&BrokerSnapshot) -> bool) {
        let waiting = async {
            while !is_so(&self.broker.snapshot().await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("never: {what}; {:?}", self.broker.snapshot().await);
        }
    }
}

/// A machine's certificate and key.
pub(super) struct Credentials {
    pub(super) chain_pem: String,
    pub(super) key_pem: String,
}

impl Credentials {
    /// The DNS names in its certificate.
    pub(super) fn server_names(&self) -> Vec<String> {
        use x509_cert::der::Decode as _;
        use x509_cert::ext::pkix::{SubjectAltName, name::GeneralName};
        let (chain, _) = self.read();
        let leaf = x509_cert::Certificate::from_der(&chain[0]).unwrap();
        let (_, names) = leaf.tbs_certificate.get::<SubjectAltName>().unwrap().unwrap();
        let dns = names.0.into_iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.to_string()),
            _ => None,
        });
        dns.collect()
    }

    fn read(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.chain_pem.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        (chain.collect::<Result<_, _>>().unwrap(), key)
    }
}

/// The machine's end of a channel.
pub(super) struct Machine<In, Out> {
    pub(super) outbox: Outbox<Out>,
    pub(super) inbound: mpsc::Receiver<In>,
    pub(super) end: JoinHandle<PumpEnd>,
}

pub(super) type FakeAgent = Machine<BrokerToAgent, AgentToBroker>;
pub(super) type FakeGateway = Machine<BrokerToGateway, GatewayToBroker>;

impl<In, Out> Machine<In, Out> {
    async fn next(&mut self) -> In {
        timeout(PATIENCE, self.inbound.recv()).await.expect("a message").expect("a channel")
    }

    /// Cuts the connection without a word.
    pub(super) async fn die(self) {
        self.end.abort();
        let _aborted = self.end.await;
    }
}

impl FakeAgent {
    pub(super) async fn order(&mut self) -> Order {
        match self.next().await {
            BrokerToAgent::Order(order) => order,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn cancelled(&mut self) -> (SessionId, Code) {
        match self.next().await {
            BrokerToAgent::Cancel { session, refusal } => (session, refusal.code),
            other => panic!("{other:?}"),
        }
    }
}

impl FakeGateway {
    /// The next message that is not the gateway table.
    pub(super) async fn answer(&mut self) -> BrokerToGateway {
        loop {
            let message = self.next().await;
            if !matches!(message, BrokerToGateway::Gateways { .. }) {
                return message;
            }
        }
    }

    pub(super) fn ask_for(&self, number: u8, resource: &str, bearer: &str) {
        self.outbox.post(GatewayToBroker::Place(wish(number, resource, bearer)));
    }

    /// What a gateway asks for a stock client that is there without a place.
    pub(super) fn come_back(&self, number: u8, client_address: &str) {
        self.outbox.post(GatewayToBroker::Place(PlaceRequest {
            client_address: client_address.into(),
            here_only: true,
            ..wish(number, "desktop", TOKEN)
        }));
    }

    pub(super) async fn place(&mut self, number: u8) -> Placement {
        self.ask_for(number, "desktop", TOKEN);
        let placement = self.placed().await;
        assert_eq!(placement.session, session(number));
        placement
    }

    pub(super) async fn placed(&mut self) -> Placement {
        match self.answer().await {
            BrokerToGateway::Placed { placement, .. } => placement,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn place_refused(&mut self) -> Code {
        match self.answer().await {
            BrokerToGateway::PlaceRefused { refusal, .. } => refusal.code,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn orchestrate(&self, number: u8) {
        let request = 100 + u64::from(number);
        self.outbox.post(GatewayToBroker::Orchestrate { request, session: session(number) });
    }

    pub(super) async fn orchestrate_refused(&mut self) -> Code {
        match self.answer().await {
            BrokerToGateway::OrchestrateRefused { refusal, .. } => refusal.code,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn cancelled(&mut self) -> (SessionId, Code) {
        match self.answer().await {
            BrokerToGateway::Cancel { session, refusal } => (session, refusal.code),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn started(&self, number: u8) {
        self.outbox.post(GatewayToBroker::SessionStarted { session: session(number) });
    }

    pub(super) fn ended(&self, number: u8) {
        self.outbox.post(GatewayToBroker::SessionEnded {
            session: session(number),
            close_reason: "client_closed".into(),
            bytes_up: 1,
            bytes_down: 2,
            duration_ms: 3,
        });
    }
}

fn wish(number: u8, resource: &str, bearer: &str) -> PlaceRequest {
    PlaceRequest {
        request: u64::from(number),
        bearer: bearer.into(),
        application: format!("||{resource}"),
        load_balance_info: format!("ringway:test/{resource}"),
        client_address: "192.0.2.1:5000".into(),
        gateway: "gw-1".parse().unwrap(),
        explain: Explain::default(),
        session: session(number),
        here_only: false,
    }
}

pub(super) fn session(number: u8) -> SessionId {
    SessionId([number; 16])
}
