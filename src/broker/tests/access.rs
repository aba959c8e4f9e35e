//! Who gets in, and what they get: enrolment, channels, feed, admin socket.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::super::testing::{FakeAgent, TOKEN, World};
use crate::channel::pump::PumpEnd;
use crate::cli::ctl::ask;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::wire::admin::{AdminRequest, AdminResponse, BrokerRequest};
use crate::wire::arm::RefusalBody;
use crate::wire::channel::AgentToBroker;
use crate::wire::enroll::MachineRole;
use crate::wire::feed::{Discovery, Feed};
use crate::wire::rdp_file::RdpFile;
use crate::wire::rdp_signature;

#[tokio::test]
async fn enrolment_refuses_each_bad_token_with_its_code() {
    let world = World::start("").await;
    let pool = Some("pool".parse().unwrap());
    let agent = MachineRole::Agent;
    let ttl = Duration::from_secs(60);
    let token = world.broker.create_enrol_token(agent, pool.clone(), ttl, 1).await.unwrap();
    assert!(token.ends_with(&world.broker.shared.authority.pin().to_string()));
    let wrong_role = world.redeem(&token, MachineRole::Gateway, "host-1").await;
    assert_eq!(wrong_role.err(), Some(Code::EnrolTokenInvalid));
    let bad_name = world.redeem(&token, agent, "Not A Name").await;
    assert_eq!(bad_name.err(), Some(Code::EnrolRequestInvalid));
    assert!(world.redeem(&token, agent, "host-1").await.is_ok());
    let again = world.redeem(&token, agent, "host-2").await;
    assert_eq!(again.err(), Some(Code::EnrolTokenUsedUp));
    let unknown = world.redeem("rwe_00", agent, "host-1").await;
    assert_eq!(unknown.err(), Some(Code::EnrolTokenInvalid));
    let brief = Duration::from_millis(1);
    let token = world.broker.create_enrol_token(agent, pool, brief, 1).await.unwrap();
    tokio::time::sleep(brief * 2).await;
    let expired = world.redeem(&token, agent, "host-2").await;
    assert_eq!(expired.err(), Some(Code::EnrolTokenExpired));

    let nonsense = world.http().post(world.url("/enroll")).body("{").send().await.unwrap();
    assert_eq!(nonsense.status(), 400);
    let huge = vec![b' '; 100_000];
    let huge = world.http().post(world.url("/enroll")).body(huge).send().await.unwrap();
    assert_eq!(huge.status(), 400);
}

#[tokio::test]
async fn channels_are_for_enrolled_machines_of_the_right_role() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let gateway = world.enrol(MachineRole::Gateway, "gw-1").await;
    let open =
        async |path, credentials| world.channel::<String, String>(path, credentials).await.err();
    assert_eq!(open("/channel/agent", None).await, Some(403));
    assert_eq!(open("/channel/agent", Some(&gateway)).await, Some(403));
    assert_eq!(open("/channel/gateway", Some(&host)).await, Some(403));
    assert_eq!(open("/channel/agent", Some(&host)).await, None);

    // Enrolled again: the old key is void.
    let renewed = world.enrol(MachineRole::Agent, "host-1").await;
    assert_eq!(open("/channel/agent", Some(&host)).await, Some(403));
    assert_eq!(open("/channel/agent", Some(&renewed)).await, None);

    let store = &world.broker.shared.store;
    let now = UnixMillis::now();
    assert!(store.revoke(MachineRole::Agent, "host-1".into(), now).await.unwrap());
    assert_eq!(open("/channel/agent", Some(&renewed)).await, Some(403));
}

#[tokio::test]
async fn who_is_revoked_or_enrolled_again_elsewhere_loses_its_channel() {
    let world = World::start("").await;
    let socket = world.dir.path().join("admin.sock");
    let revoke = async |role, name: &str, undo| {
        let (socket, name) = (socket.clone(), name.to_owned());
        let asked = move || ask(&socket, &BrokerRequest::Revoke { role, name, undo });
        tokio::task::spawn_blocking(asked).await.unwrap()
    };
    let told = |end: PumpEnd| match end {
        PumpEnd::PeerSaidGoodbye(refusal) => refusal.code,
        other => panic!("{other:?}"),
    };
    let (agent, gateway) = world.with_machines().await;
    assert!(revoke(MachineRole::Agent, "gw-1", false).await.is_err(), "not an agent");
    assert!(revoke(MachineRole::Agent, "host-1", true).await.is_err(), "not revoked");
    let nobody_was_there = AdminResponse::Disconnected { live: 0, pending: 0, of_unknown_users: 0 };
    assert_eq!(revoke(MachineRole::Agent, "host-1", false).await.unwrap(), nobody_was_there);
    assert_eq!(told(agent.end.await.unwrap()), Code::MachineUnknown);
    let now = world.broker.snapshot().await;
    assert!(!now.hosts[0].connected && now.gateways.len() == 1, "{now:?}");

    let pool = Some("pool".parse().unwrap());
    let ttl = Duration::from_secs(60);
    let token = world.broker.create_enrol_token(MachineRole::Agent, pool, ttl, 1).await.unwrap();
    let refused = world.redeem(&token, MachineRole::Agent, "host-1").await;
    assert_eq!(refused.err(), Some(Code::MachineUnknown));
    assert_eq!(revoke(MachineRole::Agent, "host-1", true).await.unwrap(), AdminResponse::Done);
    assert!(world.redeem(&token, MachineRole::Agent, "host-1").await.is_ok());

    // A stolen token: the machine that was there notices, and so do we.
    world.enrol(MachineRole::Gateway, "gw-1").await;
    assert_eq!(told(gateway.end.await.unwrap()), Code::MachineUnknown);
    assert!(world.broker.snapshot().await.gateways.is_empty());
}

#[tokio::test]
async fn a_gateway_serves_only_under_names_that_its_token_is_for() {
    let world = World::start("").await;
    let role = MachineRole::Gateway;
    let socket = world.dir.path().join("admin.sock");
    let create = |names: &[&str]| {
        let server_names = names.iter().map(|name| (*name).to_owned()).collect();
        let new =
            AdminRequest::CreateToken { role, pool: None, ttl_ms: 60_000, uses: 9, server_names };
        let socket = socket.clone();
        tokio::task::spawn_blocking(move || match ask(&socket, &new).unwrap() {
            AdminResponse::Token(token) => token.token,
            other => panic!("{other:?}"),
        })
    };
    let (bare, bound) = (create(&[]).await.unwrap(), create(&["gw.example"]).await.unwrap());
    let redeem = async |token: &str, names: &[&str]| {
        let redeemed = world.redeem_for(token, role, "gw-1", names).await;
        redeemed.map(|credentials| credentials.server_names())
    };
    assert_eq!(redeem(&bare, &[]).await, Ok(vec![]));
    assert_eq!(redeem(&bare, &["localhost"]).await, Err(Code::EnrolRequestInvalid));
    assert_eq!(redeem(&bound, &["localhost"]).await, Err(Code::EnrolRequestInvalid));
    assert_eq!(redeem(&bound, &["gw.example"]).await, Ok(vec!["gw.example".to_owned()]));
    assert_eq!(redeem(&bound, &[]).await, Ok(vec!["gw.example".to_owned()]));
}

#[tokio::test]
async fn a_newer_channel_replaces_the_older() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let older = world.agent(&host, &[]).await;
    let newer = world.agent(&host, &[]).await;
    let replaced = PumpEnd::PeerSaidGoodbye(Refusal::new(Code::ChannelReplaced));
    assert_eq!(older.end.await.unwrap(), replaced);
    let now = world.broker.snapshot().await;
    assert!(now.hosts[0].connected && !newer.end.is_finished(), "{now:?}");
}

#[tokio::test]
async fn a_wrong_first_message_or_version_is_answered_with_goodbye() {
    let world = World::start("").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    for (message, code) in [
        (
            AgentToBroker::OrderAccepted { session: super::super::testing::session(1) },
            Code::RequestMalformed,
        ),
        (
            AgentToBroker::Hello {
                version: 9,
                software: "x".into(),
                live: vec![],
                capacity: 0,
                labels: vec![],
                checks: vec![],
            },
            Code::ProtocolVersion,
        ),
    ] {
        let agent: FakeAgent = world.channel("/channel/agent", Some(&host)).await.unwrap();
        agent.outbox.post(message);
        let PumpEnd::PeerSaidGoodbye(refusal) = agent.end.await.unwrap() else { panic!() };
        assert_eq!(refusal.code, code);
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_closed_and_others_do_not_notice() {
    let world = World::start("handshake_timeout_ms = 100\nhandshakes_max = 2").await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(world.broker.address()).await.unwrap());
    }
    for stream in &mut silent {
        let closed = stream.read(&mut [0; 16]).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
    let health = world.http().get(world.url("/healthz")).send().await.unwrap();
    assert_eq!(health.text().await.unwrap(), "ok\n");
}

#[tokio::test]
async fn silent_peers_close_the_port_to_their_own_address_only() {
    let world = World::start("handshake_timeout_ms = 600000\nhandshakes_per_address_max = 2").await;
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let broker = world.broker.address();
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(broker).await.unwrap());
    }
    let mut third = TcpStream::connect(broker).await.unwrap();
    let dropped = third.read(&mut [0; 16]).await;
    assert!(matches!(dropped, Ok(0) | Err(_)), "{dropped:?}");
    let from_elsewhere = other.connect(broker).await.unwrap();
    let opened =
        world.channel_over::<String, String>(from_elsewhere, "/channel/agent", Some(&host)).await;
    assert!(opened.is_ok());
}

#[tokio::test]
async fn a_request_that_trickles_in_is_cut_off() {
    use tokio::io::AsyncWriteExt as _;
    let world = World::start(
        "request_timeout_ms = 100\nheartbeat_timeout_ms = 100\nheartbeat_interval_ms = 50",
    )
    .await;
    let tcp = TcpStream::connect(world.broker.address()).await.unwrap();
    let mut stream = world.tls(tcp, None).await;
    let head = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let cut = async {
        loop {
            tick.tick().await;
            if stream.write_all(b"x: y\r\n").await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), cut).await.expect("cut off");
}

#[tokio::test]
async fn the_feed_lists_what_is_assigned_and_signs_it() {
    let world = World::start("").await;
    let http = world.http();
    let get = async |path: &str, token: Option<&str>| {
        let mut request = http.get(world.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap()
    };
    let refused = async |path: &str, token: Option<&str>| {
        get(path, token).await.json::<RefusalBody>().await.unwrap().refusal.code
    };
    let discovery: Discovery = get("/api/feed/discovery", None).await.json().await.unwrap();
    assert_eq!((discovery.workspace.as_str(), discovery.issuer), ("test", None));
    assert_eq!(refused("/api/feed", None).await, Code::TokenMissing);
    assert_eq!(refused("/api/feed", Some("guess")).await, Code::TokenUnknownKey);
    assert_eq!(get("/api/feed", None).await.headers()["www-authenticate"], "Bearer");
    assert_eq!(refused("/nowhere", None).await, Code::NotFound);
    assert_eq!(refused("/enroll", None).await, Code::MethodNotAllowed);

    let feed: Feed = get("/api/feed", Some(TOKEN)).await.json().await.unwrap();
    let ids: Vec<_> = feed.resources.iter().map(|resource| resource.id.as_str()).collect();
    assert_eq!((feed.user.as_str(), ids.as_slice()), ("ann", &["desktop"][..]));
    let path = &feed.resources[0].rdp_path;
    assert_eq!(refused(path, Some(TOKEN)).await, Code::NoGateway);
    let (_agent, _gateway) = world.with_machines().await;
    assert_eq!(refused("/api/feed/rdp/secret", Some(TOKEN)).await, Code::NotAssigned);
    assert_eq!(refused("/api/feed/rdp/nothing", Some(TOKEN)).await, Code::ResourceUnknown);
    assert_eq!(refused(path, None).await, Code::TokenMissing);

    let response = get(path, Some(TOKEN)).await;
    assert_eq!(response.headers()["content-type"], "application/x-rdp");
    let file = RdpFile::parse(&response.bytes().await.unwrap()).unwrap();
    let roots = [world.broker.shared.authority.certificate().clone()];
    let verified = rdp_signature::verify(&file, &roots, UnixMillis::now()).unwrap();
    for (name, value) in [
        ("gatewayhostname", "gw.example:443"),
        ("loadbalanceinfo", "ringway:test/desktop"),
        ("remoteapplicationprogram", "||desktop"),
        ("full address", "desktop"),
    ] {
        assert_eq!(file.string(name), Some(value));
        assert!(verified.covers(name), "{name}");
    }
    assert_eq!(file.string("resourceprovider"), Some("arm"));
}

#[tokio::test]
async fn users_get_what_they_were_given_and_nothing_else() {
    let world = World::start("").await;
    let (_agent, mut gateway) = world.with_machines().await;
    for (resource, bearer, code) in [
        ("desktop", "", Code::TokenMissing),
        ("desktop", "guess", Code::TokenUnknownKey),
        ("secret", TOKEN, Code::NotAssigned),
        ("nothing", TOKEN, Code::ResourceUnknown),
    ] {
        gateway.ask_for(1, resource, bearer);
        assert_eq!(gateway.place_refused().await, code, "{resource}");
    }
    assert!(world.broker.snapshot().await.sessions.is_empty());
}

#[tokio::test]
async fn the_admin_socket_answers_and_drains_for_good() {
    let world = World::start("").await;
    let (_agent, mut gateway) = world.with_machines().await;
    gateway.place(1).await;
    let socket = world.dir.path().join("admin.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let ask = async |request: AdminRequest| {
        let socket = socket.clone();
        tokio::task::spawn_blocking(move || ask(&socket, &request)).await.unwrap()
    };
    let AdminResponse::Status(status) = ask(AdminRequest::Status).await.unwrap() else { panic!() };
    assert_eq!((status.hosts_connected, status.gateways_connected, status.sessions), (1, 1, 1));
    let explain = AdminRequest::Explain { session: super::super::testing::session(1) };
    let AdminResponse::Explained { session, .. } = ask(explain).await.unwrap() else { panic!() };
    assert_eq!(session.user.as_deref(), Some("ann"));
    let unknown = AdminRequest::Explain { session: super::super::testing::session(2) };
    assert!(ask(unknown).await.is_err());

    let create = |role, pool: Option<&str>| AdminRequest::CreateToken {
        role,
        pool: pool.map(|pool| pool.parse().unwrap()),
        ttl_ms: 60_000,
        uses: 1,
        server_names: vec![],
    };
    let answer = ask(create(MachineRole::Gateway, None)).await.unwrap();
    let AdminResponse::Token(token) = answer else { panic!() };
    assert!(world.redeem(&token.token, MachineRole::Gateway, "gw-9").await.is_ok());
    assert!(ask(create(MachineRole::Agent, None)).await.is_err());
    assert!(ask(create(MachineRole::Agent, Some("elsewhere"))).await.is_err());

    let drain = |host: &str, undo| AdminRequest::Drain { host: host.parse().unwrap(), undo };
    assert!(ask(drain("nobody", false)).await.is_err());
    assert_eq!(ask(drain("host-1", false)).await.unwrap(), AdminResponse::Done);
    world.until("draining", |now| now.hosts[0].draining).await;
    let world = world.restart().await;
    assert!(world.broker.snapshot().await.hosts[0].draining, "survives a restart");
    let host = world.enrol(MachineRole::Agent, "host-1").await;
    let _agent = world.agent(&host, &[]).await;
    assert!(world.broker.snapshot().await.hosts[0].draining, "and a reconnect");
    assert_eq!(ask(drain("host-1", true)).await.unwrap(), AdminResponse::Done);
    world.until("ready", |now| !now.hosts[0].draining).await;
}
