//! An agent with a fake broker and a fake gateway, through the whole life of orders.

use std::io;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::core::ids::GatewayId;
use crate::dial::testing::{TestCa, TestServer, eventually, read_head};
use crate::observe::timeline::StepEvent;
use crate::wire::channel::{Envelope, Order};

const SESSION: SessionId = SessionId([7; 16]);
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ringway-relay\r\n\r\n";

/// A broker, a gateway and a target in the hands of the test, around one agent.
struct World {
    agent: Agent,
    gateway: TestServer,
    /// What the agent told the broker, without heartbeats.
    heard: mpsc::UnboundedReceiver<AgentToBroker>,
    to_agent: mpsc::UnboundedSender<BrokerToAgent>,
    /// The gateway's side of each leg that arrived, with its request head.
    legs: mpsc::UnboundedReceiver<(String, TlsStream<TcpStream>)>,
    /// The RDP server's side of each stream.
    targets: mpsc::UnboundedReceiver<DuplexStream>,
    steps: mpsc::UnboundedReceiver<StepEvent>,
    _broker: TestServer,
    _state_dir: tempfile::TempDir,
}

/// A target that hands its far ends to the test, or refuses.
struct TestTarget {
    arrivals: Option<mpsc::UnboundedSender<DuplexStream>>,
}

impl Target for TestTarget {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let arrivals = self.arrivals.as_ref().ok_or(io::ErrorKind::ConnectionRefused)?;
            let (near, far) = duplex(4_096);
            arrivals.send(far).unwrap();
            Ok(Box::new(near) as Box<dyn TargetStream>)
        })
    }
}

async fn world(sessions_max: u32, target_answers: bool) -> World {
    let ca = TestCa::new();
    let (leg_sender, legs) = mpsc::unbounded_channel();
    let gateway = TestServer::start(ca.server(), move |mut stream| {
        let leg_sender = leg_sender.clone();
        async move {
            let head = read_head(&mut stream).await;
            leg_sender.send((head, stream)).unwrap();
        }
    })
    .await;
    let (to_agent, orders) = mpsc::unbounded_channel();
    let (words, heard) = mpsc::unbounded_channel();
    let broker = fake_broker(&ca, orders, words).await;

    let state_dir = tempfile::tempdir().unwrap();
    ca.enrol_agent(state_dir.path(), &broker.url());
    let mut config = AgentConfig::new(state_dir.path().into());
    config.sessions_max = sessions_max;
    config.labels = vec!["rack-1".parse().unwrap()];
    config.health.load_per_core_max = 0.0; // this machine's is its own affair
    config.health.interval_ms = 10;
    config.limits.reconnect_base_ms = 5;
    config.limits.reconnect_cap_ms = 20;
    config.limits.shutdown_grace_ms = 100;
    let (arrivals, targets) = mpsc::unbounded_channel();
    let target = TestTarget { arrivals: target_answers.then_some(arrivals) };
    let (step_sender, steps) = mpsc::unbounded_channel();
    let timeline: Timeline = Arc::new(move |event| {
        let _test_is_over = step_sender.send(event);
    });
    let agent = Agent::start(&config, Arc::new(target), Some(timeline)).unwrap();
    let mut world = World {
        agent,
        gateway,
        heard,
        to_agent,
        legs,
        targets,
        steps,
        _broker: broker,
        _state_dir: state_dir,
    };
    let hello = world.next_word().await;
    let AgentToBroker::Hello { version: VERSION, capacity, live, .. } = hello else {
        panic!("{hello:?}")
    };
    assert_eq!((capacity, live), (sessions_max, Vec::new()));
    world.agent.connected().await;
    world
}

/// Welcomes each connection, answers beats, passes on what it is given. A
/// message that no broker sends (an order without a ticket) hangs up.
async fn fake_broker(
    ca: &TestCa,
    orders: mpsc::UnboundedReceiver<BrokerToAgent>,
    words: mpsc::UnboundedSender<AgentToBroker>,
) -> TestServer {
    let orders = Arc::new(tokio::sync::Mutex::new(orders));
    TestServer::start(ca.server(), move |stream| {
        let (orders, words) = (Arc::clone(&orders), words.clone());
        async move {
            // The machine's certificate is how a broker knows its agents.
            assert!(stream.get_ref().1.peer_certificates().is_some());
            let mut socket = accept_async(stream).await.unwrap();
            let text = |envelope: Envelope<BrokerToAgent>| {
                Message::text(serde_json::to_string(&envelope).unwrap())
            };
            let host = "host-1".parse().unwrap();
            let body = BrokerToAgent::Welcome { version: VERSION, host, draining: false };
            socket.send(text(Envelope::Body { body })).await.unwrap();
            let mut orders = orders.lock().await;
            loop {
                tokio::select! {
                    message = socket.next() => {
                        let Some(Ok(message)) = message else { return };
                        let Ok(json) = message.to_text() else { return };
                        match serde_json::from_str(json) {
                            Ok(Envelope::Beat { seq }) => {
                                socket.send(text(Envelope::Answer { seq })).await.unwrap();
                            }
                            Ok(Envelope::Body { body }) => words.send(body).unwrap(),
                            _ => {}
                        }
                    }
                    order = orders.recv() => match order {
                        Some(BrokerToAgent::Order(order)) if order.ticket.expose().is_empty() => return,
                        Some(body) => socket.send(text(Envelope::Body { body })).await.unwrap(),
                        None => return,
                    }
                }
            }
        }
    })
    .await
}

impl World {
    fn order(&self, session: SessionId) {
        let gateway: GatewayId = "gw-1".parse().unwrap();
        let order = Order {
            session,
            gateway,
            gateway_url: self.gateway.url(),
            ticket: "rw1.k.c.s".into(),
            answer_within_ms: 10_000,
        };
        self.to_agent.send(BrokerToAgent::Order(order)).unwrap();
    }

    /// Cuts the channel.
    fn hang_up(&self) {
        let order = Order {
            session: SESSION,
            gateway: "gw-1".parse().unwrap(),
            gateway_url: String::new(),
            ticket: "".into(),
            answer_within_ms: 0,
        };
        self.to_agent.send(BrokerToAgent::Order(order)).unwrap();
    }

    /// The next thing that it says about sessions.
    async fn next_word(&mut self) -> AgentToBroker {
        loop {
            let word = timeout(Duration::from_secs(10), self.heard.recv()).await.unwrap().unwrap();
            if !matches!(word, AgentToBroker::Health { .. }) {
                return word;
            }
        }
    }

    /// Orders a session and lets its leg in. Returns the gateway's and the RDP
    /// server's ends.
    async fn established(&mut self, session: SessionId) -> (TlsStream<TcpStream>, DuplexStream) {
        self.order(session);
        assert_eq!(self.next_word().await, AgentToBroker::OrderAccepted { session });
        let (head, mut leg) = self.legs.recv().await.unwrap();
        assert!(head.starts_with("GET /relay/host HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nRingway-Ticket: rw1.k.c.s\r\n"), "{head}");
        leg.write_all(SWITCHED).await.unwrap();
        leg.flush().await.unwrap();
        assert_eq!(self.next_word().await, AgentToBroker::SessionStarted { session });
        (leg, self.targets.recv().await.unwrap())
    }
}

#[tokio::test]
async fn an_order_becomes_a_session_and_its_bytes_are_counted() {
    let mut world = world(2, true).await;
    let (mut leg, mut target) = world.established(SESSION).await;
    assert_eq!(world.agent.live_sessions(), [SESSION]);

    leg.write_all(b"up").await.unwrap();
    leg.flush().await.unwrap();
    let mut up = [0; 2];
    target.read_exact(&mut up).await.unwrap();
    target.write_all(b"down!").await.unwrap();
    target.shutdown().await.unwrap();
    let mut down = Vec::new();
    leg.read_to_end(&mut down).await.unwrap();
    assert_eq!((&up, down.as_slice()), (b"up", b"down!".as_slice()));
    // The host has hung up; the client's side is still open until it does too.
    assert_eq!(world.agent.live_sessions(), [SESSION]);
    leg.shutdown().await.unwrap();

    let ended = AgentToBroker::SessionEnded { session: SESSION, bytes_up: 2, bytes_down: 5 };
    assert_eq!(world.next_word().await, ended);
    assert!(world.agent.live_sessions().is_empty());
    let steps: Vec<_> = std::iter::from_fn(|| world.steps.try_recv().ok()).collect();
    assert_eq!(steps.iter().map(|s| s.step).collect::<Vec<_>>(), [9, 10]);
    assert!(steps.iter().all(|s| s.session == Some(SESSION) && s.who == "agent"));
}

#[tokio::test]
async fn a_target_that_does_not_answer_refuses_the_order() {
    let mut world = world(2, false).await;
    world.order(SESSION);
    let answer = world.next_word().await;
    let AgentToBroker::OrderRefused { session: SESSION, refusal } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(refusal.code, Code::HostRefused);
    assert!(world.agent.live_sessions().is_empty());
}

#[tokio::test]
async fn a_full_agent_is_busy_and_an_order_sent_twice_is_one_session() {
    let mut world = world(1, true).await;
    let _session = world.established(SESSION).await;
    world.order(SESSION);
    world.order(SessionId([8; 16]));
    let answer = world.next_word().await;
    let AgentToBroker::OrderRefused { session, refusal } = answer else { panic!("{answer:?}") };
    assert_eq!((session, refusal.code), (SessionId([8; 16]), Code::HostBusy));
    assert_eq!(world.agent.live_sessions(), [SESSION]);
}

#[tokio::test]
async fn a_gateway_that_refuses_or_is_gone_fails_the_order() {
    let mut world = world(2, true).await;
    world.order(SESSION);
    assert_eq!(world.next_word().await, AgentToBroker::OrderAccepted { session: SESSION });
    let (_, mut leg) = world.legs.recv().await.unwrap();
    let body = serde_json::to_string(&Refusal::new(Code::SessionUnknown)).unwrap();
    let length = body.len();
    let answer = format!("HTTP/1.1 404 x\r\nContent-Length: {length}\r\n\r\n{body}");
    leg.write_all(answer.as_bytes()).await.unwrap();
    leg.flush().await.unwrap();
    let failed = world.next_word().await;
    let expected =
        AgentToBroker::OrderFailed { session: SESSION, refusal: Code::SessionUnknown.into() };
    assert_eq!(failed, expected);

    // The target is let go: it must not keep a session that nobody has.
    let mut target = world.targets.recv().await.unwrap();
    assert_eq!(target.read(&mut [0]).await.unwrap(), 0);

    let gone = Order {
        session: SESSION,
        gateway: "gw-1".parse().unwrap(),
        gateway_url: "https://localhost:1".into(),
        ticket: "t".into(),
        answer_within_ms: 10_000,
    };
    world.to_agent.send(BrokerToAgent::Order(gone)).unwrap();
    assert_eq!(world.next_word().await, AgentToBroker::OrderAccepted { session: SESSION });
    let failed = world.next_word().await;
    let AgentToBroker::OrderFailed { refusal, .. } = failed else { panic!("{failed:?}") };
    assert_eq!(refusal.code, Code::HostDialFailed);
    assert!(refusal.detail.unwrap().contains("step 10"));
}

#[tokio::test]
async fn a_cancelled_session_ends_on_both_sides() {
    let mut world = world(2, true).await;
    let (mut leg, mut target) = world.established(SESSION).await;
    let refusal = Refusal::new(Code::HostGone);
    world.to_agent.send(BrokerToAgent::Cancel { session: SESSION, refusal }).unwrap();
    assert_eq!(leg.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(target.read(&mut [0]).await.unwrap(), 0);
    let ended = AgentToBroker::SessionEnded { session: SESSION, bytes_up: 0, bytes_down: 0 };
    assert_eq!(world.next_word().await, ended);
}

#[tokio::test]
async fn a_lost_broker_goes_unnoticed_by_sessions_and_hears_of_them_again() {
    let mut world = world(2, true).await;
    let (mut leg, mut target) = world.established(SESSION).await;
    world.hang_up();
    let hello = world.next_word().await;
    let AgentToBroker::Hello { live, .. } = hello else { panic!("{hello:?}") };
    assert_eq!(live, [SESSION]);

    leg.write_all(b"still here").await.unwrap();
    leg.flush().await.unwrap();
    let mut received = [0; 10];
    target.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"still here");
}

#[tokio::test]
async fn a_shutdown_refuses_orders_then_ends_sessions_then_says_goodbye() {
    let mut world = world(2, true).await;
    let (mut leg, _target) = world.established(SESSION).await;
    let World { agent, mut heard, to_agent, gateway, .. } = world;
    let seats = Arc::clone(&agent.seats);
    let stopping = tokio::spawn(agent.shutdown());
    eventually("the agent closes", || {
        seats.take(SESSION).is_err_and(|e| e == seats::NoSeat::Closing)
    })
    .await;
    let late = Order {
        session: SessionId([8; 16]),
        gateway: "gw-1".parse().unwrap(),
        gateway_url: gateway.url(),
        ticket: "t".into(),
        answer_within_ms: 1_000,
    };
    to_agent.send(BrokerToAgent::Order(late)).unwrap();
    assert_eq!(leg.read(&mut [0]).await.unwrap(), 0);
    stopping.await.unwrap();
    let (mut warned, mut refused, mut ended) = (false, false, false);
    while !(warned && refused && ended) {
        match timeout(Duration::from_secs(10), heard.recv()).await.unwrap().unwrap() {
            AgentToBroker::OrderRefused { refusal, .. } => {
                refused = refusal.code == Code::HostDraining;
            }
            AgentToBroker::SessionEnded { session, .. } => ended = session == SESSION,
            AgentToBroker::Draining => warned = true,
            AgentToBroker::Health { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_broker_hears_how_the_host_is_in_every_hello_and_when_it_changes() {
    let mut world = world(1, true).await;
    let _session = world.established(SESSION).await;
    let full = loop {
        world.hang_up();
        let hello = world.next_word().await;
        let AgentToBroker::Hello { labels, checks, .. } = hello else { panic!("{hello:?}") };
        assert_eq!(labels, ["rack-1".parse().unwrap()]);
        if checks.first().is_some_and(|check| !check.ok) {
            break checks;
        }
    };
    let [places] = full.as_slice() else { panic!("looked at what is no server: {full:?}") };
    assert_eq!((places.name.as_str(), places.fatal), ("places", false));
    assert_eq!(places.detail, "0 of 1 free");
    let refusal = Refusal::new(Code::HostGone);
    world.to_agent.send(BrokerToAgent::Cancel { session: SESSION, refusal }).unwrap();
    let free = async {
        while let Some(word) = world.heard.recv().await {
            if matches!(word, AgentToBroker::Health { checks } if checks[0].ok) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), free).await.unwrap();
}

#[tokio::test]
async fn a_machine_that_is_not_enrolled_does_not_start() {
    let state_dir = tempfile::tempdir().unwrap();
    let config = AgentConfig::new(state_dir.path().into());
    let target = Arc::new(tcp_target(&config).unwrap());
    let error = Agent::start(&config, target, None).unwrap_err();
    assert!(error.to_string().contains("run ringway enroll"), "{error}");
}

/// The same with the real broker: enrolled with its token alone, welcomed, and
/// gone from its table after the goodbye.
#[tokio::test]
async fn our_own_broker_enrols_and_welcomes_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "listen = '127.0.0.1:0'\npublic_url = 'https://localhost'\nserver_names = ['localhost']\n\
         state_dir = '{}'\npools = [{{ name = 'office' }}]\n",
        folder.path().join("broker").display()
    );
    let broker =
        crate::broker::Broker::start(toml::from_str(&config).unwrap(), None).await.unwrap();
    let ttl = Duration::from_secs(60);
    let pool = Some("office".parse().unwrap());
    let token = broker.create_enrol_token(MachineRole::Agent, pool, ttl, 1).await.unwrap();
    let state_dir = folder.path().join("agent");
    let settings = crate::channel::enroll::EnrolSettings {
        broker: format!("https://localhost:{}", broker.address().port()).parse().unwrap(),
        token: token.parse().unwrap(),
        role: MachineRole::Agent,
        state_dir: state_dir.clone(),
        name: "host-9".into(),
        server_names: Vec::new(),
        ca: None,
        force: false,
        limits: crate::dial::testing::short_limits(),
    };
    crate::channel::enroll::enroll(&settings).await.unwrap();

    let config = AgentConfig::new(state_dir);
    let agent = Agent::start(&config, Arc::new(tcp_target(&config).unwrap()), None).unwrap();
    // A configuration that changes nothing, or cannot be used.
    agent.adopt(config.clone()).await.unwrap();
    let no_ca = AgentConfig { gateway_ca: Some("/nowhere".into()), ..config.clone() };
    assert_eq!(agent.adopt(no_ca).await.unwrap_err().key, "agent.gateway_ca");
    timeout(Duration::from_secs(10), agent.connected()).await.unwrap();
    let hosts = broker.snapshot().await.hosts;
    assert_eq!(hosts.len(), 1);
    assert_eq!((hosts[0].host.as_str(), hosts[0].connected), ("host-9", true));
    agent.shutdown().await;
    timeout(Duration::from_secs(10), async {
        while broker.snapshot().await.hosts.iter().any(|host| host.connected) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    broker.shutdown().await;
}

#[tokio::test]
async fn a_reload_moves_the_next_session_and_leaves_the_first() {
    let mut world = world(5, true).await;
    let (mut leg, mut rdp) = world.established(SESSION).await;
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = other.local_addr().unwrap().to_string();
    let next = AgentConfig { target, ..world.agent.config.clone() };
    world.agent.adopt(next).await.unwrap();
    let second = SessionId([9; 16]);
    world.order(second);
    timeout(Duration::from_secs(10), other.accept()).await.unwrap().unwrap();
    assert_eq!(world.next_word().await, AgentToBroker::OrderAccepted { session: second });
    leg.write_all(b"still here").await.unwrap();
    leg.flush().await.unwrap();
    let mut arrived = [0; 10];
    rdp.read_exact(&mut arrived).await.unwrap();
    assert_eq!(&arrived, b"still here");
}
