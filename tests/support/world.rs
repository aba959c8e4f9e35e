//! One gateway, one fake broker, and as many fake clients and hosts as a test
//! wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ringway::config::gateway::GatewayConfig;
use ringway::core::codes::Refusal;
use ringway::core::ids::{GatewayId, SessionId};
use ringway::core::tickets::Role;
use rustls::ClientConfig;
use tokio::task::JoinHandle;

use super::ca::TestCa;
use super::fake_broker::{FakeBroker, random_id};
use super::gateway::TestGateway;
use super::legs::{Leg, knock};
use super::wait::{until, within};

pub struct World {
    pub ca: Arc<TestCa>,
    pub tls: Arc<ClientConfig>,
    pub broker: FakeBroker,
    pub gateway: TestGateway,
}

/// A session and its ends.
#[derive(Debug)]
pub struct Pair {
    pub session: SessionId,
    pub client: Leg,
    pub host: Leg,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Returns when the gateway takes tickets.
    pub async fn start_with(adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        let ca = Arc::new(TestCa::new());
        let broker = FakeBroker::start(&ca);
        let gateway = TestGateway::start(&ca, &broker.url(), "gw-1", adjust);
        broker.set_table(vec![gateway.entry()]);
        let world = Self { tls: Arc::new(ca.client_tls()), ca, broker, gateway };
        world.until_ready(&world.gateway).await;
        world
    }

    /// Waits until a gateway has the broker's ticket keys.
    pub async fn until_ready(&self, gateway: &TestGateway) {
        let claims = self.broker.claims(Role::Client, random_id(), &gateway.id);
        let ticket = self.broker.sign(&claims);
        until("the gateway has the broker's keys", || {
            let tickets = gateway.shared().tickets.read().unwrap();
            tickets.verify(&ticket, &gateway.id, Role::Client, claims.issued_at).is_ok()
        })
        .await;
    }

    pub fn ticket(&self, role: Role, session: SessionId) -> String {
        self.broker.issue_ticket(role, session, &self.gateway.id)
    }

    /// A leg with a good ticket, from its dial to the gateway's answer.
    pub async fn leg(&self, role: Role, session: SessionId) -> Result<Leg, Refusal> {
        knock(self.gateway.address, &self.tls, role, &self.ticket(role, session)).await
    }

    /// The same in the background, once the broker was asked for the host.
    pub async fn waiting_client(&self, session: SessionId) -> JoinHandle<Result<Leg, Refusal>> {
        let (address, tls) = (self.gateway.address, Arc::clone(&self.tls));
        let ticket = self.ticket(Role::Client, session);
        let knocking =
            tokio::spawn(async move { knock(address, &tls, Role::Client, &ticket).await });
        until("the broker is asked", || self.broker.orchestrations().contains(&session)).await;
        knocking
    }

    /// A relayed session.
    pub async fn pair(&self) -> Pair {
        self.pair_with(&self.tls, &self.tls).await
    }

    pub async fn pair_with(
        &self,
        client_tls: &Arc<ClientConfig>,
        host_tls: &Arc<ClientConfig>,
    ) -> Pair {
        let (id, address) = (&self.gateway.id, self.gateway.address);
        pair_at(&self.broker, id, address, client_tls, host_tls).await.unwrap()
    }

    /// A session that goes on while something else happens.
    pub async fn bystander(&self) -> Bystander {
        Bystander::start(self.pair().await)
    }

    pub async fn close_reason(&self, session: SessionId) -> String {
        self.broker.close_reason(session).await
    }
}

/// A session relayed by any gateway that the broker knows.
///
/// # Errors
/// What the client was told.
pub async fn pair_at(
    broker: &FakeBroker,
    gateway: &GatewayId,
    address: SocketAddr,
    client_tls: &Arc<ClientConfig>,
    host_tls: &Arc<ClientConfig>,
) -> Result<Pair, Refusal> {
    let session = random_id();
    let (client_ticket, host_ticket) = (
        broker.issue_ticket(Role::Client, session, gateway),
        broker.issue_ticket(Role::Host, session, gateway),
    );
    let client = knock(address, client_tls, Role::Client, &client_ticket);
    tokio::pin!(client);
    let asked = until("the broker is asked", || broker.orchestrations().contains(&session));
    tokio::select! {
        // It can only be a refusal as long as there is no host.
        early = &mut client => return Err(early.unwrap_err()),
        () = asked => {}
    }
    let host = knock(address, host_tls, Role::Host, &host_ticket);
    let (client, host) = tokio::join!(client, host);
    Ok(Pair { session, client: client?, host: host? })
}

impl Pair {
    /// Bytes pass both ways, unchanged.
    pub async fn assert_alive(&mut self) {
        self.client.send(b"to the host").await;
        assert_eq!(self.host.receive(11).await, b"to the host");
        self.host.send(b"to the client").await;
        assert_eq!(self.client.receive(13).await, b"to the client");
    }
}

/// A session whose ends play ping-pong without a pause.
pub struct Bystander {
    pub session: SessionId,
    rounds: Arc<AtomicU64>,
    playing: JoinHandle<()>,
}

impl Bystander {
    fn start(mut pair: Pair) -> Self {
        let rounds = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&rounds);
        let session = pair.session;
        let playing = tokio::spawn(async move {
            loop {
                pair.assert_alive().await;
                count.fetch_add(1, Relaxed);
                // Neither hogs the machine nor lets a fault go unnoticed.
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        });
        Self { session, rounds, playing }
    }

    /// It has not noticed anything, and still goes on.
    pub async fn assert_undisturbed(&mut self) {
        let before = self.rounds.load(Relaxed);
        until("the other session goes on", || {
            self.rounds.load(Relaxed) >= before + 3 || self.playing.is_finished()
        })
        .await;
        if self.playing.is_finished() {
            within("its failure", &mut self.playing).await.unwrap();
        }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.playing.abort();
    }
}
