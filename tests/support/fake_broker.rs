//! A broker that says what the test wants: real TLS, real channel, scripted
//! answers, and everything that it was told on record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::signature::Ed25519KeyPair;
use ringway::channel::pump::{self, Outbox, PumpEnd, PumpRules};
use ringway::core::clock::UnixMillis;
use ringway::core::codes::{Code, Refusal};
use ringway::core::ids::{GatewayId, HostId, SessionId};
use ringway::core::tickets::{Claims, Role, TicketSigner};
use ringway::wire::channel::{BrokerToGateway, GatewayEntry, GatewayToBroker, Placement, VERSION};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::accept_async;

use super::ca::TestCa;
use super::ports::ReservedPort;
use super::wait::until;

/// The host that every placement and ticket names.
pub const HOST: &str = "host-1";

/// What the broker says to a question.
#[derive(Clone, Debug)]
pub enum Answer {
    Yes,
    No(Refusal),
    Silence,
}

/// What a gateway has said.
#[derive(Clone, Debug)]
pub struct Heard {
    pub gateway: GatewayId,
    pub message: GatewayToBroker,
}

pub struct FakeBroker {
    ca: Arc<TestCa>,
    port: ReservedPort,
    inner: Arc<Inner>,
    serving: Option<JoinHandle<()>>,
}

struct Inner {
    signer: TicketSigner,
    state: Mutex<State>,
}

struct State {
    heard: Vec<Heard>,
    goodbyes: Vec<Code>,
    connected: HashMap<GatewayId, Outbox<BrokerToGateway>>,
    table: Vec<GatewayEntry>,
    place: Answer,
    orchestrate: Answer,
    reauthenticate: Answer,
    certificate: Option<String>,
}

impl FakeBroker {
    /// Starts one that says yes to everything.
    pub fn start(ca: &Arc<TestCa>) -> Self {
        let state = State {
            heard: Vec::new(),
            goodbyes: Vec::new(),
            connected: HashMap::new(),
            table: Vec::new(),
            place: Answer::Yes,
            orchestrate: Answer::Yes,
            reauthenticate: Answer::Yes,
            certificate: None,
        };
        let inner = Arc::new(Inner { signer: new_signer(), state: Mutex::new(state) });
        let mut broker =
            Self { ca: Arc::clone(ca), port: ReservedPort::new(), inner, serving: None };
        broker.open();
        broker
    }

    /// Listens, for the first time or again after [`FakeBroker::die`].
    pub fn open(&mut self) {
        let listener = self.port.listen();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(self.ca.server_tls()));
        let (ca, inner) = (Arc::clone(&self.ca), Arc::clone(&self.inner));
        self.serving = Some(tokio::spawn(async move {
            // Dropped together with this task: a dead broker has no channels.
            let mut channels = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                if let Ok(tls) = acceptor.accept(tcp).await {
                    channels.spawn(Arc::clone(&inner).serve(tls, Arc::clone(&ca)));
                }
            }
        }));
    }

    /// Closes the port and every channel, without a word.
    pub async fn die(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
        self.state().connected.clear();
    }

    pub fn url(&self) -> String {
        self.port.url()
    }

    pub fn on_place(&self, answer: Answer) {
        self.state().place = answer;
    }

    pub fn on_orchestrate(&self, answer: Answer) {
        self.state().orchestrate = answer;
    }

    /// To whether a token is of a session's user.
    pub fn on_reauthenticate(&self, answer: Answer) {
        self.state().reauthenticate = answer;
    }

    /// What the host's agent reported: base64 of DER.
    pub fn set_certificate(&self, certificate: &str) {
        self.state().certificate = Some(certificate.to_owned());
    }

    /// The gateway table; told to all gateways now and to new ones at once.
    pub fn set_table(&self, table: Vec<GatewayEntry>) {
        let mut state = self.state();
        state.table = table;
        let message = self.inner.table_message(&state);
        for outbox in state.connected.values() {
            outbox.post(message.clone());
        }
    }

    pub fn send(&self, gateway: &GatewayId, message: BrokerToGateway) {
        let state = self.state();
        assert!(state.connected.get(gateway).is_some_and(|outbox| outbox.post(message)));
    }

    /// Everything heard so far that `pick` wants.
    pub fn heard<T>(&self, pick: impl Fn(&Heard) -> Option<T>) -> Vec<T> {
        self.state().heard.iter().filter_map(pick).collect()
    }

    /// Sessions for which a host was asked.
    pub fn orchestrations(&self) -> Vec<SessionId> {
        self.heard(|heard| match heard.message {
            GatewayToBroker::Orchestrate { session, .. } => Some(session),
            _ => None,
        })
    }

    /// Questions of any kind.
    pub fn questions(&self) -> usize {
        self.heard(|heard| {
            matches!(heard.message, GatewayToBroker::Place(_) | GatewayToBroker::Orchestrate { .. })
                .then_some(())
        })
        .len()
    }

    /// How a session ended, as often as it was told.
    pub fn endings(&self, of: SessionId) -> Vec<String> {
        self.heard(|heard| match &heard.message {
            GatewayToBroker::SessionEnded { session, close_reason, .. } if *session == of => {
                Some(close_reason.clone())
            }
            _ => None,
        })
    }

    /// Waits until it hears how a session ended, which must be told once.
    pub async fn close_reason(&self, session: SessionId) -> String {
        until("the broker hears of the end", || !self.endings(session).is_empty()).await;
        let mut endings = self.endings(session);
        assert_eq!(endings.len(), 1, "{endings:?}");
        endings.remove(0)
    }

    /// Waits for the first goodbye of a gateway.
    pub async fn goodbye(&self) -> Code {
        until("a gateway says goodbye", || !self.state().goodbyes.is_empty()).await;
        self.state().goodbyes[0]
    }

    pub fn claims(&self, role: Role, session: SessionId, gateway: &GatewayId) -> Claims {
        claims(role, session, gateway)
    }

    pub fn sign(&self, claims: &Claims) -> String {
        self.inner.signer.sign(claims)
    }

    pub fn issue_ticket(&self, role: Role, session: SessionId, gateway: &GatewayId) -> String {
        self.sign(&claims(role, session, gateway))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap()
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Inner {
    async fn serve(self: Arc<Self>, tls: TlsStream<TcpStream>, ca: Arc<TestCa>) {
        let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
        let name = shown.and_then(|certificate| ca.name_of(&certificate));
        let gateway: GatewayId = name.expect("no machine's certificate").parse().unwrap();
        let Ok(socket) = accept_async(tls).await else { return };

        let (outbox, queue) = pump::outbox(1_024);
        let (inbound, mut messages) = mpsc::channel(1_024);
        let answering = async {
            while let Some(message) = messages.recv().await {
                self.on_message(&gateway, message, &outbox);
            }
        };
        let rules = PumpRules::default();
        let (end, ()) = tokio::join!(pump::drive(socket, rules, queue, inbound), answering);
        let mut state = self.state.lock().unwrap();
        state.connected.remove(&gateway);
        if let PumpEnd::PeerSaidGoodbye(refusal) = end {
            state.goodbyes.push(refusal.code);
        }
    }

    fn on_message(
        &self,
        gateway: &GatewayId,
        message: GatewayToBroker,
        outbox: &Outbox<BrokerToGateway>,
    ) {
        let mut state = self.state.lock().unwrap();
        match &message {
            GatewayToBroker::Hello { .. } => {
                outbox.post(BrokerToGateway::Welcome {
                    version: VERSION,
                    gateway: gateway.clone(),
                    ticket_keys: vec![self.signer.published()],
                    checks_tokens: true,
                    compares_users: true,
                });
                outbox.post(self.table_message(&state));
                state.connected.insert(gateway.clone(), outbox.clone());
            }
            GatewayToBroker::Place(place) => {
                let request = place.request;
                match state.place.clone() {
                    Answer::Yes => {
                        outbox.post(BrokerToGateway::Placed {
                            request,
                            placement: self.placement(&state, place.session, &place.gateway),
                        });
                    }
                    Answer::No(refusal) => {
                        outbox.post(BrokerToGateway::PlaceRefused { request, refusal });
                    }
                    Answer::Silence => {}
                }
            }
            GatewayToBroker::Orchestrate { request, .. } => {
                let request = *request;
                match state.orchestrate.clone() {
                    Answer::Yes => {
                        outbox.post(BrokerToGateway::Orchestrated { request });
                    }
                    Answer::No(refusal) => {
                        outbox.post(BrokerToGateway::OrchestrateRefused { request, refusal });
                    }
                    Answer::Silence => {}
                }
            }
            GatewayToBroker::CheckToken { request, session, .. } => {
                let answer = if session.is_some() { &state.reauthenticate } else { &state.place };
                let refusal = match answer.clone() {
                    Answer::Yes => None,
                    Answer::No(refusal) => Some(refusal),
                    Answer::Silence => return,
                };
                outbox.post(BrokerToGateway::TokenChecked { request: *request, refusal });
            }
            GatewayToBroker::Load { .. }
            | GatewayToBroker::AlsoLive { .. }
            | GatewayToBroker::SessionStarted { .. }
            | GatewayToBroker::SessionEnded { .. } => {}
        }
        state.heard.push(Heard { gateway: gateway.clone(), message });
    }

    fn placement(&self, state: &State, session: SessionId, gateway: &GatewayId) -> Placement {
        let claims = claims(Role::Client, session, gateway);
        let entry = state.table.iter().find(|entry| entry.gateway == *gateway);
        Placement {
            session,
            host: claims.host.clone(),
            gateway_url: entry.map(|entry| entry.url.clone()).unwrap_or_default(),
            expires_at: claims.expires_at,
            client_ticket: self.signer.sign(&claims).into(),
            settled: None,
            server_certificate: state.certificate.clone(),
        }
    }

    fn table_message(&self, state: &State) -> BrokerToGateway {
        BrokerToGateway::Gateways {
            gateways: state.table.clone(),
            ticket_keys: vec![self.signer.published()],
        }
    }
}

/// A key that nobody else has.
pub fn new_signer() -> TicketSigner {
    let key = Ed25519KeyPair::generate().unwrap();
    TicketSigner::from_pkcs8(key.to_pkcs8v1().unwrap().as_ref()).unwrap()
}

/// 128 random bits.
pub fn random_id() -> SessionId {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    SessionId(bytes)
}

fn claims(role: Role, session: SessionId, gateway: &GatewayId) -> Claims {
    let host: HostId = HOST.parse().unwrap();
    let issued_at = UnixMillis::now();
    Claims {
        id: random_id(),
        session,
        gateway: gateway.clone(),
        host,
        role,
        issued_at,
        expires_at: issued_at.plus_ms(30_000),
    }
}
