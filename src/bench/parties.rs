//! The two parties that bring a session about: users who ask the gateway
//! (step 7), and the session host's agent, which hears the broker's orders
//! (step 9). The engine then plays both legs.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::Sender;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::deployment::{DESKTOP, Marks};
use super::engine::Command;
use super::leg::Greeting;
use crate::channel::client::{self, ChannelEvent, ChannelHandle, ChannelSettings};
use crate::channel::enroll::Enrolment;
use crate::core::ids::SessionId;
use crate::core::tickets::Role;
use crate::dial::http::HttpsClient;
use crate::dial::relay::request_head;
use crate::dial::{DialLimits, Dialer, Endpoint, Purpose};
use crate::gateway::relay::ring::Doorbell;
use crate::tls::settings::TlsSettings;
use crate::wire::arm::{ConnectionRequest, ConnectionResponse};
use crate::wire::channel::{AgentToBroker, BrokerToAgent, VERSION};
use crate::wire::enroll::MachineRole;

/// Users who ask at once; each waits for one answer of the broker.
pub(super) const ASKING_AT_ONCE: usize = 64;
/// Orders that may wait: all of those who asked at once, many times.
const QUEUE_LENGTH: usize = 8_192;

/// The way to the engine, and which session is which.
#[derive(Clone)]
pub(super) struct ToEngine {
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
    /// Sessions that were placed and whose host has not been ordered yet.
    numbers: Arc<Mutex<HashMap<SessionId, u32>>>,
}

impl ToEngine {
    pub(super) fn new(commands: Sender<Command>, bell: Arc<Doorbell>) -> Self {
        Self { commands, bell, numbers: Arc::default() }
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

    fn dial(&self, session: u32, side: Role, url: &str, address: SocketAddr, ticket: &str) {
        let endpoint = url.parse::<Endpoint>().map_err(|error| error.to_string());
        let command = endpoint.and_then(|endpoint| {
            let name = endpoint.server_name().map_err(|error| error.to_string())?;
            let head = request_head(&endpoint, side, ticket).map_err(|error| error.to_string())?;
            Ok(Command::Dial { session, side, address, name, greeting: Greeting::Relay(head) })
        });
        self.tell(command.unwrap_or_else(|why| Command::Failed { session, why }));
    }
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
                match engine.number_of(session) {
                    Some(number) => {
                        engine.dial(
                            number,
                            Role::Host,
                            &order.gateway_url,
                            address,
                            order.ticket.expose(),
                        );
                    }
                    None => {
                        tracing::warn!(%session, "An order for a session that nobody asked for")
                    }
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
            tokio::spawn(async move {
                user.ask(number).await;
                drop(turn);
            });
        }
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
                let ticket = answer.ringway.ticket.expose();
                self.engine.dial(
                    number,
                    Role::Client,
                    answer.gateway_location.expose(),
                    self.address,
                    ticket,
                );
            }
            Err(error) => {
                self.engine.tell(Command::Failed { session: number, why: error.to_string() });
            }
        }
    }
}
