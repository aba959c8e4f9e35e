//! All roles in this process, and users who come in from outside: each step of
//! a session can be taken on its own, refused or broken off.

use std::net::SocketAddr;
use std::sync::Arc;

use ringway::agent::Target;
use ringway::cli::ctl;
use ringway::config::broker::StaticToken;
use ringway::config::gateway::GatewayConfig;
use ringway::connect::{SessionOpener, SessionSettings};
use ringway::core::codes::Refusal;
use ringway::core::ids::{GatewayId, HostId, SessionId};
use ringway::core::placement::Phase;
use ringway::core::secret::Secret;
use ringway::core::selection::Explain;
use ringway::core::tickets::Role;
use ringway::demo::world::{DESKTOP, HOST, World, WorldSettings};
use ringway::dial::http::HttpsClient;
use ringway::dial::{DialError, DialLimits, Dialer, Endpoint, Purpose};
use ringway::gateway::Gateway;
use ringway::gateway::shared::lock;
use ringway::tls::settings::TlsSettings;
use ringway::wire::admin::{AdminRequest, AdminResponse, HostView, SessionView};
use ringway::wire::arm::{ConnectionRequest, ConnectionResponse};
use serde::Serialize;

use super::legs::{Leg, request};
use super::wait::{until, within};

/// Users with a token of their own.
pub const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Two gateways, users with static tokens, and reconnects without much pause.
pub fn settings() -> WorldSettings {
    let mut settings = WorldSettings {
        adjust_gateway: nimble,
        adjust_agent: |agent| {
            agent.limits.reconnect_base_ms = 10;
            agent.limits.reconnect_cap_ms = 100;
        },
        adjust_broker: |broker| broker.limits.gateway_table_interval_ms = 100,
        ..WorldSettings::default()
    };
    settings.identity.static_tokens = USERS.map(static_token).into();
    settings
}

/// A gateway that returns at once and needs little memory.
pub fn nimble(gateway: &mut GatewayConfig) {
    gateway.threads.output_slots = 32;
    gateway.channel.reconnect_base_ms = 10;
    gateway.channel.reconnect_cap_ms = 100;
}

fn static_token(user: &str) -> StaticToken {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token(user).as_bytes());
    StaticToken { user: user.into(), groups: vec![], token_sha256: hex::encode(hash) }
}

pub fn token(user: &str) -> String {
    format!("test-token-of-{user}")
}

/// What the `.rdp` file of a resource says.
pub fn wish(resource: &str) -> ConnectionRequest {
    ConnectionRequest {
        application: format!("||{resource}"),
        load_balance_info: format!("ringway:demo/{resource}"),
        ..ConnectionRequest::default()
    }
}

pub struct Stage {
    pub world: World,
    pub https: HttpsClient,
    pub dialer: Dialer,
}

/// A user's session: the place, and the leg that is joined to its host.
#[derive(Debug)]
pub struct Seated {
    pub session: SessionId,
    pub gateway: GatewayId,
    pub leg: Leg,
}

impl Stage {
    pub async fn start() -> Self {
        Self::start_with(settings()).await
    }

    pub async fn start_with(settings: WorldSettings) -> Self {
        ringway::tls::install_provider();
        let world = World::start(settings).await.unwrap();
        let tls = TlsSettings::default().client(world.roots().unwrap()).unwrap();
        let limits = DialLimits::default();
        let https = HttpsClient::new(tls.clone(), limits).unwrap();
        Self { world, https, dialer: Dialer::new(tls, limits) }
    }

    /// The same with one session host.
    pub async fn start_with_host(settings: WorldSettings, target: impl Target + 'static) -> Self {
        let mut stage = Self::start_with(settings).await;
        stage.world.add_host("host-1", Arc::new(target)).await.unwrap();
        stage
    }

    /// Step 7 at the first gateway: a place, or why there is none.
    pub async fn place(&self, user: &str) -> Result<ConnectionResponse, Refusal> {
        self.place_at(self.entry(), Some(&token(user)), &wish(DESKTOP)).await
    }

    /// The same at some gateway, as somebody, for something.
    pub async fn place_at(
        &self,
        entry: SocketAddr,
        bearer: Option<&str>,
        wish: &ConnectionRequest,
    ) -> Result<ConnectionResponse, Refusal> {
        let url = format!("https://{HOST}:{}/api/arm/v2/connections", entry.port());
        let answer = self.https.post_json(Purpose::CLIENT_LEG, &url, bearer, wish).await;
        answer.map_err(|error| refusal(&error))
    }

    pub fn entry(&self) -> SocketAddr {
        self.world.gateways[0].address()
    }

    /// Steps 8 to 11: joins the host at the gateway that was chosen.
    pub async fn join(&self, place: &ConnectionResponse) -> Result<Leg, Refusal> {
        self.knock(place.gateway_location.expose(), Role::Client, place.ringway.ticket.expose())
            .await
    }

    /// A leg with any ticket at any gateway.
    pub async fn knock(&self, url: &str, role: Role, ticket: &str) -> Result<Leg, Refusal> {
        let mut leg = self.dial(url).await;
        let reply = leg.ask(&request(role, ticket)).await;
        if reply.status == 101 { Ok(leg) } else { Err(reply.refusal()) }
    }

    /// TLS to a gateway, and nothing more.
    pub async fn dial(&self, url: &str) -> Leg {
        dial(&self.dialer, url).await
    }

    /// Steps 7 to 11.
    pub async fn open(&self, user: &str) -> Result<Seated, Refusal> {
        let place = self.place(user).await?;
        let leg = self.join(&place).await?;
        Ok(Seated { session: place.ringway.session, gateway: place.ringway.gateway, leg })
    }

    /// Our own client, as `ringway connect` uses it.
    pub fn opener(&self, user: &str) -> SessionOpener {
        let wish = wish(DESKTOP);
        let settings = SessionSettings {
            entry: format!("https://{HOST}:{}", self.entry().port()).parse().unwrap(),
            application: wish.application,
            load_balance_info: wish.load_balance_info,
            token: Secret::new(token(user)).into(),
            roots: self.world.roots().unwrap(),
            tls: TlsSettings::default(),
            dial: DialLimits::default(),
        };
        SessionOpener::new(settings, None).unwrap()
    }

    pub fn gateway(&self, id: &GatewayId) -> &Gateway {
        self.world.gateways.iter().find(|gateway| gateway.shared().id == *id).unwrap()
    }

    /// Whether that gateway relays that session.
    pub fn relays(&self, gateway: &GatewayId, session: SessionId) -> bool {
        lock(&self.gateway(gateway).shared().live).contains_key(&session)
    }

    /// A client is let in a moment before its session counts.
    pub async fn until_relayed(&self, gateway: &GatewayId, session: SessionId) {
        until("the session is relayed", || self.relays(gateway, session)).await;
    }

    /// The broker learns of the start last.
    pub async fn until_live(&self, session: SessionId) {
        let live = self.world.until("the session is live", |_, now| {
            now.sessions.iter().any(|view| view.session == session && view.started_at.is_some())
        });
        live.await.unwrap();
    }

    /// Asks the broker on its admin socket.
    pub fn ask_broker(&self, request: &impl Serialize) -> AdminResponse {
        ctl::ask(&self.world.broker_config.admin_socket(), request).unwrap()
    }

    pub async fn host(&self, name: &str) -> HostView {
        let name: HostId = name.parse().unwrap();
        let snapshot = self.world.broker.snapshot().await;
        snapshot.hosts.into_iter().find(|host| host.host == name).unwrap()
    }

    /// Waits until nobody holds a place, on any host or at any gateway.
    pub async fn until_free(&self) {
        let free = self.world.until("every place is free", |world, snapshot| {
            snapshot.sessions.is_empty()
                && snapshot.hosts.iter().all(|host| host.sessions == 0)
                && world.gateways.iter().all(|gateway| gateway.shared().sessions() == 0)
        });
        free.await.unwrap();
        for gateway in &self.world.gateways {
            assert_eq!(lock(&gateway.shared().pairing).len(), 0, "somebody still waits");
        }
    }

    /// What the broker has on a session.
    pub async fn explained(&self, session: SessionId) -> (SessionView, Explain) {
        self.world.broker.explain(session).await.expect("the broker knows the session")
    }

    /// How far the broker sees a session.
    pub async fn phase(&self, session: SessionId) -> Option<Phase> {
        self.explained(session).await.0.phase
    }

    /// Waits until the entry gateway knows of that many connections.
    pub async fn until_entry_sees(&self, connections: u32) {
        let desk = self.world.gateways[0].desk();
        let seen = async {
            loop {
                let answer = desk.answer(AdminRequest::Gateways).await;
                let AdminResponse::Judged { explain } = answer else { panic!("{answer:?}") };
                if explain.lines.iter().map(|line| line.connections).sum::<u32>() == connections {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        within("the entry gateway's table", seen).await;
    }

    /// How a session ended, once it has.
    pub async fn end_of(&self, session: SessionId) -> SessionView {
        self.world.ended(session).await.unwrap()
    }

    pub async fn shutdown(self) {
        self.world.shutdown().await;
    }
}

/// TLS to a gateway, also to the address at which its clients are let in.
pub async fn dial(dialer: &Dialer, url: &str) -> Leg {
    let endpoint: Endpoint = url.strip_suffix("/relay/client").unwrap_or(url).parse().unwrap();
    Leg(dialer.connect(&endpoint, Purpose::CLIENT_LEG).await.unwrap())
}

fn refusal(error: &DialError) -> Refusal {
    error.refusal().cloned().unwrap_or_else(|| panic!("not a refusal: {error}"))
}
