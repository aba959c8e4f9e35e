//! The two parties that bring a session about: users who ask the gateway
//! (step 7), and the session host's agent, which hears the broker's orders
//! (step 9). The engine then plays both legs. A client of an RD Gateway asks
//! nobody before it comes.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::Sender;
use rustls::pki_types::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::deployment::{DESKTOP, Marks};
use super::engine::{Command, PlacedByGateway};
use super::framing::ClientLeg;
use super::greeting::{Greeting, TsguClient, placed_by_gateway};
use crate::channel::client::{self, ChannelEvent, ChannelHandle, ChannelSettings};
use crate::channel::enroll::Enrolment;
use crate::core::ids::{ResourceId, SessionId};
use crate::core::tickets::Role;
use crate::dial::http::HttpsClient;
use crate::dial::relay::request_head;
use crate::dial::{DialLimits, Dialer, Endpoint, Purpose};
use crate::gateway::relay::ring::Doorbell;
use crate::tls::settings::TlsSettings;
use crate::wire::arm::{ConnectionRequest, ConnectionResponse};
use crate::wire::channel::{AgentToBroker, BrokerToAgent, VERSION};
use crate::wire::enroll::MachineRole;
use crate::wire::resource_name::ResourceName;

/// Users who ask at once; each waits for one answer of the broker.
pub(super) const ASKING_AT_ONCE: usize = 64;
/// Orders that may wait: all of those who asked at once, many times.
const QUEUE_LENGTH: usize = 8_192;

/// The way to the engine, and which session is which.
#[derive(Clone)]
pub(super) struct ToEngine {
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
    leg: ClientLeg,
    /// Sessions that were placed and whose host has not been ordered yet.
    numbers: Arc<Mutex<HashMap<SessionId, u32>>>,
}

impl ToEngine {
    pub(super) fn new(commands: Sender<Command>, bell: Arc<Doorbell>, leg: ClientLeg) -> Self {
        Self { commands, bell, leg, numbers: Arc::default() }
    }

    fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
        self.bell.ring();
    }

    fn placed(&self, number: u32, session: SessionId) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).insert(session, number);
    }

    fn number_of(&self, session: SessionId) -> Option<u32> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).remove(&session)
    }

    /// Dials a client's leg that has a ticket.
    fn dial_client(&self, session: u32, placed: &Placed<'_>, address: SocketAddr) {
        let command = self.greet(session, placed).map(|(name, greeting)| Command::Dial {
            session,
            side: Role::Client,
            address,
            name,
            greeting,
            placed: None,
        });
        self.tell(command.unwrap_or_else(|why| Command::Failed { session, why }));
    }

    fn greet(
        &self,
        session: u32,
        placed: &Placed<'_>,
    ) -> Result<(ServerName<'static>, Greeting), String> {
        if self.leg == ClientLeg::Raw {
            return relay_greeting(placed.url, Role::Client, placed.ticket);
        }
        let (endpoint, name) = endpoint(placed.url)?;
        let resource: ResourceId = DESKTOP.parse().map_err(|_| "no name".to_owned())?;
        let path = ResourceName { workspace: None, resource }.wst_path();
        let path = format!("{path}?place={}", placed.ticket);
        Ok((name, Greeting::websocket(&endpoint.authority(), &path, placed.token, session)))
    }

    /// Dials a client's leg that the gateway is to find a place for.
    fn dial_placed_by_gateway(
        &self,
        session: u32,
        url: &str,
        token: &str,
        address: SocketAddr,
        turn: OwnedSemaphorePermit,
    ) {
        self.tell(match endpoint(url) {
            Ok((endpoint, name)) => {
                let authority = &endpoint.authority();
                let client = TsguClient { authority, token, resource: DESKTOP, number: session };
                let (greeting, second) = placed_by_gateway(self.leg, &client);
                let placed = Some(PlacedByGateway { second, turn });
                Command::Dial { session, side: Role::Client, address, name, greeting, placed }
            }
            Err(why) => Command::Failed { session, why },
        });
    }

    /// Dials a host's leg; `None` for a session that its client will tell.
    fn dial_host(&self, session: Option<u32>, url: &str, address: SocketAddr, ticket: &str) {
        let (name, greeting) = match relay_greeting(url, Role::Host, ticket) {
            Ok(greeting) => greeting,
            Err(why) => {
                tracing::warn!(why, "An order cannot be carried out");
                return session
                    .into_iter()
                    .for_each(|session| self.tell(Command::Failed { session, why: why.clone() }));
            }
        };
        let side = Role::Host;
        self.tell(match session {
            Some(session) => Command::Dial { session, side, address, name, greeting, placed: None },
            None => Command::DialHost { address, name, greeting },
        });
    }
}

/// What a user was given.
struct Placed<'a> {
    url: &'a str,
    ticket: &'a str,
    token: &'a str,
}

fn endpoint(url: &str) -> Result<(Endpoint, ServerName<'static>), String> {
    let endpoint: Endpoint =
        url.parse().map_err(|error: crate::dial::endpoint::EndpointError| error.to_string())?;
    let name = endpoint.server_name().map_err(|error| error.to_string())?;
    Ok((endpoint, name))
}

fn relay_greeting(
    url: &str,
    side: Role,
    ticket: &str,
) -> Result<(ServerName<'static>, Greeting), String> {
    let (endpoint, name) = endpoint(url)?;
    let head = request_head(&endpoint, side, ticket).map_err(|error| error.to_string())?;
    Ok((name, Greeting::Relay(head)))
}

/// The session host's agent, as far as the broker sees it. The second hears
/// when the broker has welcomed it.
pub(super) fn serve_orders(
    enrolment: &Enrolment,
    capacity: u32,
    engine: ToEngine,
    address: SocketAddr,
) -> anyhow::Result<(impl Future<Output = ()> + Send + use<>, oneshot::Receiver<()>)> {
    let dialer = Dialer::new(enrolment.client_tls(TlsSettings::default())?, DialLimits::default());
    let broker: Endpoint = enrolment.record.broker_url.parse()?;
    let settings = ChannelSettings {
        queue_length: QUEUE_LENGTH,
        ..ChannelSettings::new(broker, dialer, MachineRole::Agent)
    };
    let (channel, events) = client::spawn(settings, move || {
        let software = concat!("ringway bench ", env!("CARGO_PKG_VERSION")).into();
        vec![AgentToBroker::Hello {
            version: VERSION,
            software,
            live: Vec::new(),
            capacity,
            labels: Vec::new(),
            checks: Vec::new(),
        }]
    });
    let (welcomed, welcome) = oneshot::channel();
    Ok((hear_orders(channel, events, engine, welcomed, address), welcome))
}

async fn hear_orders(
    channel: ChannelHandle<AgentToBroker>,
    mut events: mpsc::Receiver<ChannelEvent<BrokerToAgent>>,
    engine: ToEngine,
    welcomed: oneshot::Sender<()>,
    address: SocketAddr,
) {
    let mut welcomed = Some(welcomed);
    while let Some(event) = events.recv().await {
        match event {
            ChannelEvent::Message(BrokerToAgent::Welcome { .. }) => {
                if let Some(welcomed) = welcomed.take() {
                    let _ = welcomed.send(());
                }
            }
            ChannelEvent::Message(BrokerToAgent::Order(order)) => {
                let session = order.session;
                let _ = channel.send(AgentToBroker::OrderAccepted { session });
                let number = engine.number_of(session);
                if number.is_some() || engine.leg.is_placed_by_gateway() {
                    let ticket = order.ticket.expose();
                    engine.dial_host(number, &order.gateway_url, address, ticket);
                } else {
                    tracing::warn!(%session, "An order for a session that nobody asked for");
                }
            }
            ChannelEvent::Message(BrokerToAgent::Cancel { session, refusal }) => {
                tracing::warn!(%session, %refusal, "The broker cancelled a session");
            }
            ChannelEvent::Up | ChannelEvent::Down { .. } => {}
        }
    }
}

/// A user of the gateway.
pub(super) struct User {
    pub(super) https: HttpsClient,
    pub(super) url: String,
    pub(super) secret: String,
    pub(super) marks: Marks,
    pub(super) address: SocketAddr,
    pub(super) engine: ToEngine,
}

impl User {
    /// Asks for every session whose number comes, for some at once.
    pub(super) async fn ask_for_sessions(self, mut asked: mpsc::UnboundedReceiver<u32>) {
        let user = Arc::new(self);
        let turns = Arc::new(Semaphore::new(ASKING_AT_ONCE));
        while let Some(number) = asked.recv().await {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
            let user = Arc::clone(&user);
            if user.engine.leg.is_placed_by_gateway() {
                user.come_unasked(number, turn);
                continue;
            }
            tokio::spawn(async move {
                user.ask(number).await;
                drop(turn);
            });
        }
    }

    /// The gateway asks for this user.
    fn come_unasked(&self, number: u32, turn: OwnedSemaphorePermit) {
        let token = self.marks.token(&self.secret, number);
        self.engine.dial_placed_by_gateway(number, &self.url, &token, self.address, turn);
    }

    async fn ask(&self, number: u32) {
        let request = ConnectionRequest {
            application: DESKTOP.into(),
            load_balance_info: String::new(),
            ..ConnectionRequest::default()
        };
        let token = self.marks.token(&self.secret, number);
        let answer: Result<ConnectionResponse, _> =
            self.https.post_json(Purpose::CLIENT_LEG, &self.url, Some(&token), &request).await;
        match answer {
            Ok(answer) => {
                self.engine.placed(number, answer.ringway.session);
                let placed = Placed {
                    url: answer.gateway_location.expose(),
                    ticket: answer.ringway.ticket.expose(),
                    token: &token,
                };
                self.engine.dial_client(number, &placed, self.address);
            }
            Err(error) => {
                self.engine.tell(Command::Failed { session: number, why: error.to_string() });
            }
        }
    }
}
