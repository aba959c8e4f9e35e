//! A session host that does what a test tells it: real enrolment, real
//! channel, no agent behind it.

use ringway::channel::client::{self, ChannelEvent, ChannelHandle, ChannelSettings};
use ringway::channel::enroll::Enrolment;
use ringway::core::codes::{Code, Refusal};
use ringway::core::ids::SessionId;
use ringway::core::tickets::Role;
use ringway::dial::{DialLimits, Dialer};
use ringway::tls::settings::TlsSettings;
use ringway::wire::channel::{AgentToBroker, BrokerToAgent, Order, VERSION};
use ringway::wire::enroll::MachineRole;
use tokio::sync::mpsc;

use super::legs::{Leg, request};
use super::stage::{Stage, dial};
use super::wait::within;

pub struct ScriptedHost {
    channel: ChannelHandle<AgentToBroker>,
    events: mpsc::Receiver<ChannelEvent<BrokerToAgent>>,
    dialer: Dialer,
}

impl ScriptedHost {
    /// Enrols it and opens its channel. Returns when the broker has it.
    pub async fn start(stage: &Stage, name: &str) -> Self {
        let state_dir = stage.world.enrol(name, MachineRole::Agent).await.unwrap();
        let enrolment = Enrolment::load_as(&state_dir, MachineRole::Agent).unwrap();
        let tls = enrolment.client_tls(TlsSettings::default()).unwrap();
        let dialer = Dialer::new(tls, DialLimits::default());
        let broker = enrolment.record.broker_url.parse().unwrap();
        let settings = ChannelSettings::new(broker, dialer.clone(), MachineRole::Agent);
        let (channel, events) = client::spawn(settings, || {
            vec![AgentToBroker::Hello {
                version: VERSION,
                software: "scripted host".into(),
                live: vec![],
                capacity: 0,
                labels: vec![],
                checks: vec![],
            }]
        });
        let mut host = Self { channel, events, dialer };
        let welcome = host.heard().await;
        assert!(matches!(welcome, BrokerToAgent::Welcome { .. }), "{welcome:?}");
        host
    }

    /// The next message of the broker.
    pub async fn heard(&mut self) -> BrokerToAgent {
        loop {
            match within("a word from the broker", self.events.recv()).await {
                Some(ChannelEvent::Message(message)) => return message,
                Some(ChannelEvent::Up) => {}
                other => panic!("the channel ended: {other:?}"),
            }
        }
    }

    /// Step 9.
    pub async fn order(&mut self) -> Order {
        match self.heard().await {
            BrokerToAgent::Order(order) => order,
            other => panic!("not an order: {other:?}"),
        }
    }

    /// The broker takes an order back; returns why.
    pub async fn cancelled(&mut self, ordered: SessionId) -> Code {
        match self.heard().await {
            BrokerToAgent::Cancel { session, refusal } if session == ordered => refusal.code,
            other => panic!("not taken back: {other:?}"),
        }
    }

    pub fn say(&self, message: AgentToBroker) {
        self.channel.send(message).unwrap();
    }

    pub fn accept(&self, order: &Order) {
        self.say(AgentToBroker::OrderAccepted { session: order.session });
    }

    /// Step 10.
    pub async fn join(&self, order: &Order) -> Result<Leg, Refusal> {
        self.join_at(&order.gateway_url, order).await
    }

    /// The same at a gateway of one's own choice.
    pub async fn join_at(&self, url: &str, order: &Order) -> Result<Leg, Refusal> {
        let mut leg = dial(&self.dialer, url).await;
        let reply = leg.ask(&request(Role::Host, order.ticket.expose())).await;
        if reply.status == 101 { Ok(leg) } else { Err(reply.refusal()) }
    }

    /// Steps 9 and 10 as they should go.
    pub async fn serve(&mut self) -> (Order, Leg) {
        let order = self.order().await;
        self.accept(&order);
        let leg = self.join(&order).await.unwrap();
        (order, leg)
    }

    /// The machine loses its power: the channel ends without a word.
    pub fn die(self) {
        drop(self);
    }
}
